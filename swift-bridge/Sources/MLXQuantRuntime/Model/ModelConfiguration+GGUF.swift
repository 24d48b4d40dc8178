import MLXQuantFormats

/// Numbers of a GGUF file's metadata, checked.
private struct Metadata {
    let model: GGUFModel
    let architecture: String

    func wrong(_ key: String, _ reason: String) -> FormatError {
        FormatError(.file, file: model.parts[0].file.path, field: key, reason: reason)
    }

    func count(_ name: String, default standard: Int? = nil, most: Int = 1 << 24)
        throws(FormatError) -> Int
    {
        let key = "\(architecture).\(name)"
        guard let value = model[key] else {
            guard let standard else { throw wrong(key, "missing") }
            return standard
        }
        guard let number = value.int, (1...most).contains(number) else {
            throw wrong(key, "implausible model: a whole number from 1 to \(most) expected")
        }
        return number
    }

    func real(_ name: String, default standard: Double) throws(FormatError) -> Double {
        let key = "\(architecture).\(name)"
        guard let value = model[key] else { return standard }
        guard let number = value.double, number.isFinite else { throw wrong(key, "not a number") }
        return number
    }

    func text(_ name: String) -> String? { model["\(architecture).\(name)"]?.string }
}

extension ModelConfiguration {
    private static let architectures: [String: Family] = [
        "llama": .llama, "qwen2": .qwen2, "qwen3": .qwen3, "gemma": .gemma, "gemma2": .gemma2,
        "gemma3": .gemma3,
    ]

    /// Reads a GGUF file's metadata, and the tensor `rope_freqs.weight`, where there is one.
    init(_ model: GGUFModel, frequencies: Weight?) throws(FormatError) {
        let name = model["general.architecture"]?.string ?? ""
        let data = Metadata(model: model, architecture: name)
        guard let family = Self.architectures[name] else {
            let known = Self.architectures.keys.sorted().joined(separator: ", ")
            throw data.wrong(
                "general.architecture",
                "\(quoted(name)) is not supported; known: \(known)"
            )
        }
        if let experts = model["\(name).expert_count"]?.int, experts > 0 {
            throw data.wrong("\(name).expert_count", "models with experts are not supported")
        }
        self.family = family
        hiddenSize = try data.count("embedding_length", most: 1 << 20)
        layers = try data.count("block_count", most: 4096)
        heads = try data.count("attention.head_count", most: 65536)
        keyValueHeads = try data.count("attention.head_count_kv", default: heads, most: 65536)
        mlpSize = try data.count("feed_forward_length")
        headSize = try data.count(
            "attention.key_length",
            default: max(1, hiddenSize / heads),
            most: 65536
        )
        guard heads % keyValueHeads == 0, headSize % 2 == 0, heads * headSize <= 1 << 24 else {
            throw data.wrong(
                "\(name).attention.head_count",
                "\(heads) heads of \(headSize) do not share \(keyValueHeads) heads of keys"
            )
        }
        epsilon = Float(try data.real("attention.layer_norm_rms_epsilon", default: 1e-6))
        contextLength = try data.count("context_length", default: 1 << 17, most: 1 << 30)
        queryScale = 1 / Float(headSize).squareRoot()
        isTied = model.tensor("output.weight") == nil
        windows = Array(repeating: nil, count: layers)
        // Llama's files have neighbouring rows of q and k where others have halves of a head.
        rope = try Self.rope(data, frequencies, size: headSize, isInterleaved: family == .llama)
        if family.isGemma { try addGemma(data) }
    }

    private static func rope(
        _ data: Metadata,
        _ frequencies: Weight?,
        size: Int,
        isInterleaved: Bool
    ) throws(FormatError) -> RotaryEmbedding {
        let base = try data.real("rope.freq_base", default: 10000)
        guard base > 1 else { throw data.wrong("rope.freq_base", "\(base): above 1 expected") }
        var rope = RotaryEmbedding(size: size, base: base, isInterleaved: isInterleaved)
        let rotated = try data.count("rope.dimension_count", default: size, most: 65536)
        guard rotated == size else {
            throw data.wrong("rope.dimension_count", "\(rotated) of \(size): not supported")
        }
        let factor = try data.real("rope.scaling.factor", default: 1)
        let kind = data.text("rope.scaling.type") ?? "none"
        guard factor > 0 || kind == "none" else {
            let key = "\(data.architecture).rope.scaling.factor"
            throw data.wrong(key, "\(factor): above 0 expected")
        }
        switch kind {
        case "none": break
        case "linear": rope.scaleLinearly(by: factor)
        case "yarn":
            rope.scaleByYarn(
                base: base,
                factor: factor,
                original: try data.count("rope.scaling.original_context_length", most: 1 << 30),
                fast: 32,
                slow: 1,
                magnitude: nil
            )
        default: throw data.wrong("rope.scaling.type", "\(quoted(kind)) is not supported")
        }
        if let frequencies {
            let divisors = try frequencies.floats()
            guard divisors.count == size / 2, divisors.allSatisfy({ $0 > 0 }) else {
                throw data.wrong("rope_freqs.weight", "\(size / 2) positive numbers expected")
            }
            rope.divide(by: divisors)
        }
        return rope
    }

    private mutating func addGemma(_ data: Metadata) throws(FormatError) {
        // Norms are stored as 1 + w.
        activation = family == .gemma ? .gelu : .geluTanh
        embeddingScale = Float(hiddenSize).squareRoot()
        if family == .gemma { return }
        // What queries are divided by is known by the model's size alone.
        let largest = family == .gemma2 ? 46 : 62
        if layers == largest { queryScale = 1 / Float(hiddenSize / heads).squareRoot() }
        let window = try data.count(
            "attention.sliding_window",
            default: family == .gemma2 ? 4096 : 512,
            most: 1 << 30
        )
        if family == .gemma2 {
            attentionCap = Float(try data.real("attn_logit_softcapping", default: 50))
            logitCap = Float(try data.real("final_logit_softcapping", default: 30))
            windows = (0..<layers).map { $0 % 2 == 0 ? window : nil }
            return
        }
        embeddingScale = roundedToBFloat16(embeddingScale)
        let pattern = try data.count(
            "attention.sliding_window_pattern",
            default: 6,
            most: 4096
        )
        windows = (0..<layers).map { ($0 + 1) % pattern == 0 ? nil : window }
        localRope = RotaryEmbedding(
            size: headSize,
            base: try data.real("rope.freq_base_swa", default: 10000)
        )
    }
}
