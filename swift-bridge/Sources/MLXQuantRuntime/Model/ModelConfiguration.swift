import MLXQuantFormats

/// What a model computes, as far as the families of this runtime differ: Llama, Qwen 2 and 3, Gemma.
struct ModelConfiguration: Sendable {
    enum Family: String, Sendable {
        case llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3

        var isGemma: Bool { self == .gemma || self == .gemma2 || self == .gemma3 }
    }

    /// Between the gate and the product of an MLP.
    enum Activation: Sendable {
        case silu
        /// x · Φ(x), by the error function.
        case gelu
        /// The same by tanh, which is a little different.
        case geluTanh
    }

    var family: Family
    var hiddenSize: Int
    var layers: Int
    var heads: Int
    var keyValueHeads: Int
    var headSize: Int
    var mlpSize: Int
    var epsilon: Float
    var contextLength: Int
    var activation = Activation.silu
    /// What embeddings are multiplied by.
    var embeddingScale: Float = 1
    /// What queries are multiplied by.
    var queryScale: Float
    /// `cap · tanh(x / cap)`; 0 for none.
    var attentionCap: Float = 0
    var logitCap: Float = 0
    /// Norms are stored as w and mean 1 + w.
    var addsOneToNorms = false
    /// Whether the head is the embedding; nil where that is not said, and shows by there being no other.
    var isTied: Bool?
    var rope: RotaryEmbedding
    /// Of the layers with a window, where it is another one.
    var localRope: RotaryEmbedding?
    /// For each layer, how many tokens it sees at most, itself included; nil for all.
    var windows: [Int?]
    /// Ids that end a text.
    var endIDs: Set<Int> = []
}

/// Numbers of a config.json, checked.
struct Settings {
    let object: JSONObject
    let path: String

    func wrong(_ key: String, _ reason: String) -> FormatError {
        FormatError(.model, file: path, field: key, reason: reason)
    }

    func count(_ key: String, default standard: Int? = nil, most: Int = 1 << 24)
        throws(FormatError) -> Int
    {
        guard let value = object[key], !value.isNull else {
            guard let standard else { throw wrong(key, "missing") }
            return standard
        }
        guard let number = value.int, (1...most).contains(number) else {
            throw wrong(key, "\(value): a whole number from 1 to \(most) expected")
        }
        return number
    }

    func real(_ key: String, default standard: Double? = nil) throws(FormatError) -> Double {
        guard let value = object[key], !value.isNull else {
            guard let standard else { throw wrong(key, "missing") }
            return standard
        }
        guard let number = value.double, number.isFinite else {
            throw wrong(key, "\(value): a number expected")
        }
        return number
    }

    func flag(_ key: String, default standard: Bool) -> Bool { object[key]?.bool ?? standard }
}

extension ModelConfiguration {
    /// Reads a folder's config.json.
    init(_ folder: ModelFolder) throws(FormatError) {
        var settings = Settings(object: folder.config, path: "\(folder.path)/config.json")
        let name = settings.object["model_type"]?.string ?? ""
        let outer = settings.object
        if case .object(let text)? = settings.object["text_config"] {
            settings = Settings(object: text, path: settings.path)
        }
        guard let family = Self.families[name] else {
            let known = Self.families.keys.sorted().joined(separator: ", ")
            throw settings.wrong("model_type", "\(quoted(name)) is not supported; known: \(known)")
        }
        try self.init(family, settings, tied: outer["tie_word_embeddings"]?.bool)
        let own = folder.path + "/generation_config.json"
        try addEnds(outer["eos_token_id"], settings.path)
        try addEnds(settings.object["eos_token_id"], settings.path)
        try addEnds(folder.generationConfig?["eos_token_id"], own)
    }

    private mutating func addEnds(_ value: JSON?, _ path: String) throws(FormatError) {
        guard let value, !value.isNull else { return }
        for item in value.array ?? [value] {
            guard let id = item.int, id >= 0 else {
                let reason = "\(item) is not a token id (a number from 0 up)"
                throw FormatError(.file, file: path, field: "eos_token_id", reason: reason)
            }
            endIDs.insert(id)
        }
    }

    private static let families: [String: Family] = [
        "llama": .llama, "mistral": .mistral, "qwen2": .qwen2, "qwen3": .qwen3, "gemma": .gemma,
        "gemma2": .gemma2, "gemma3": .gemma3, "gemma3_text": .gemma3,
    ]

    private init(_ family: Family, _ settings: Settings, tied: Bool?) throws(FormatError) {
        self.family = family
        let isGemma3 = family == .gemma3
        // A Gemma 3 with images says of its text model only what differs from these.
        heads = try settings.count("num_attention_heads", default: isGemma3 ? 8 : nil, most: 65536)
        keyValueHeads = try settings.count(
            "num_key_value_heads",
            default: isGemma3 ? 4 : heads,
            most: 65536
        )
        hiddenSize = try settings.count("hidden_size", most: 1 << 20)
        layers = try settings.count("num_hidden_layers", most: 4096)
        mlpSize = try settings.count("intermediate_size")
        let standard = isGemma3 || family == .gemma ? 256 : max(1, hiddenSize / heads)
        headSize = try settings.count("head_dim", default: standard, most: 65536)
        guard heads % keyValueHeads == 0, headSize % 2 == 0 else {
            throw settings.wrong(
                "num_key_value_heads",
                "\(heads) heads of \(headSize) do not share \(keyValueHeads) heads of keys"
            )
        }
        epsilon = Float(try settings.real("rms_norm_eps", default: 1e-6))
        contextLength = try settings.count(
            "max_position_embeddings",
            default: 1 << 17,
            most: 1 << 30
        )
        queryScale = 1 / Float(headSize).squareRoot()
        isTied = settings.object["tie_word_embeddings"]?.bool ?? tied
        let theta = try settings.real(
            "rope_theta",
            default: Self.nestedTheta(settings) ?? (family == .qwen2 || isGemma3 ? 1e6 : 10000)
        )
        rope = try RotaryEmbedding(
            settings,
            size: headSize,
            base: theta,
            isInterleaved: settings.flag("rope_traditional", default: false)
        )
        windows = Array(repeating: nil, count: layers)
        if family.isGemma {
            try addGemma(settings)
        } else if family == .llama || family == .mistral,
            let kinds = settings.object["layer_types"]?.array?.map(\.string),
            kinds.contains("sliding_attention")
        {
            let window = try settings.count("sliding_window", most: 1 << 30)
            for layer in kinds.indices.prefix(layers) where kinds[layer] == "sliding_attention" {
                windows[layer] = window
            }
        }
        try checkHeads(settings)
    }

    /// `rope_parameters.rope_theta`, as newer files have it.
    private static func nestedTheta(_ settings: Settings) -> Double? {
        settings.object["rope_parameters"]?["rope_theta"]?.double
            ?? settings.object["rope_parameters"]?["full_attention"]?["rope_theta"]?.double
    }

    private func checkHeads(_ settings: Settings) throws(FormatError) {
        let (queries, overflow) = heads.multipliedReportingOverflow(by: headSize)
        if overflow || queries > 1 << 24 {
            throw settings.wrong("head_dim", "\(heads) heads of \(headSize): implausible model")
        }
    }

    private mutating func addGemma(_ settings: Settings) throws(FormatError) {
        addsOneToNorms = true
        activation = family == .gemma ? .gelu : .geluTanh
        embeddingScale = Float(hiddenSize).squareRoot()
        if family == .gemma { return }
        let scalar = try settings.real(
            "query_pre_attn_scalar",
            default: family == .gemma2 ? 144 : 256
        )
        guard scalar > 0 else { throw settings.wrong("query_pre_attn_scalar", "not above 0") }
        queryScale = 1 / Float(scalar).squareRoot()
        let window = try settings.count(
            "sliding_window",
            default: family == .gemma2 ? 4096 : 512,
            most: 1 << 30
        )
        if family == .gemma2 {
            attentionCap = Float(try settings.real("attn_logit_softcapping", default: 50))
            logitCap = Float(try settings.real("final_logit_softcapping", default: 30))
            windows = (0..<layers).map { $0 % 2 == 0 ? window : nil }
            return
        }
        // The scale is a bfloat16 where the model was trained.
        embeddingScale = roundedToBFloat16(embeddingScale)
        let pattern = try settings.count(
            "sliding_window_pattern",
            default: settings.object["_sliding_window_pattern"]?.int ?? 6,
            most: 4096
        )
        let kinds = settings.object["layer_types"]?.array?.map(\.string)
        windows = (0..<layers).map { layer in
            if let kinds, kinds.indices.contains(layer) {
                return kinds[layer] == "sliding_attention" ? window : nil
            }
            return (layer + 1) % pattern == 0 ? nil : window
        }
        let nested = settings.object["rope_parameters"]?["sliding_attention"]?["rope_theta"]
        localRope = RotaryEmbedding(
            size: headSize,
            base: try settings.real("rope_local_base_freq", default: nested?.double ?? 10000)
        )
    }
}

/// The nearest number whose lower half is 0, ties to even.
func roundedToBFloat16(_ value: Float) -> Float {
    let bits = value.bitPattern
    return Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}
