import MLXQuantFormats

/// One layer: attention and an MLP, each with what stands before and behind it.
struct TransformerLayer: Sendable {
    let query: PackedMatrix
    let key: PackedMatrix
    let value: PackedMatrix
    let output: PackedMatrix
    let gate: PackedMatrix
    let up: PackedMatrix
    let down: PackedMatrix
    /// Of what goes into attention and the MLP.
    let attentionNorm: [Float]
    let mlpNorm: [Float]
    /// Of what comes out of them; empty where the family has none.
    let afterAttentionNorm: [Float]
    let afterMLPNorm: [Float]
    /// Of each head of queries and keys; empty where the family has none.
    let queryNorm: [Float]
    let keyNorm: [Float]
    /// How many tokens it sees at most; nil for all.
    let window: Int?
    let rope: RotaryEmbedding
}

extension TransformerLayer {
    /// Names of a layer's weights, without `.weight`.
    struct Names {
        var query = "self_attn.q_proj"
        var key = "self_attn.k_proj"
        var value = "self_attn.v_proj"
        var output = "self_attn.o_proj"
        var gate = "mlp.gate_proj"
        var up = "mlp.up_proj"
        var down = "mlp.down_proj"
        var attentionNorm = "input_layernorm"
        var mlpNorm = "post_attention_layernorm"
        var afterAttentionNorm: String?
        var afterMLPNorm: String?
        var queryNorm = "self_attn.q_norm"
        var keyNorm = "self_attn.k_norm"

        /// In a folder.
        static func folder(_ family: ModelConfiguration.Family) -> Names {
            var names = Names()
            if family == .gemma2 || family == .gemma3 {
                names.afterAttentionNorm = "post_attention_layernorm"
                names.mlpNorm = "pre_feedforward_layernorm"
                names.afterMLPNorm = "post_feedforward_layernorm"
            }
            return names
        }

        /// In a GGUF file.
        static func gguf(_ family: ModelConfiguration.Family) -> Names {
            var names = Names(
                query: "attn_q",
                key: "attn_k",
                value: "attn_v",
                output: "attn_output",
                gate: "ffn_gate",
                up: "ffn_up",
                down: "ffn_down",
                attentionNorm: "attn_norm",
                mlpNorm: "ffn_norm",
                queryNorm: "attn_q_norm",
                keyNorm: "attn_k_norm"
            )
            if family == .gemma2 || family == .gemma3 {
                names.afterAttentionNorm = "post_attention_norm"
                names.afterMLPNorm = "post_ffw_norm"
            }
            return names
        }
    }

    init(
        _ reader: WeightReader,
        _ prefix: String,
        _ names: Names,
        _ index: Int
    ) throws(FormatError) {
        let config = reader.configuration
        let queries = config.heads * config.headSize
        let keys = config.keyValueHeads * config.headSize
        let (hidden, mlp) = (config.hiddenSize, config.mlpSize)
        query = try reader.matrix(prefix + names.query, queries, hidden)
        key = try reader.matrix(prefix + names.key, keys, hidden)
        value = try reader.matrix(prefix + names.value, keys, hidden)
        output = try reader.matrix(prefix + names.output, hidden, queries)
        gate = try reader.matrix(prefix + names.gate, mlp, hidden)
        up = try reader.matrix(prefix + names.up, mlp, hidden)
        down = try reader.matrix(prefix + names.down, hidden, mlp)
        attentionNorm = try reader.norm(prefix + names.attentionNorm, hidden)
        mlpNorm = try reader.norm(prefix + names.mlpNorm, hidden)
        afterAttentionNorm =
            try names.afterAttentionNorm.map { (name) throws(FormatError) in
                try reader.norm(prefix + name, hidden)
            } ?? []
        afterMLPNorm =
            try names.afterMLPNorm.map { (name) throws(FormatError) in
                try reader.norm(prefix + name, hidden)
            } ?? []
        let hasHeadNorms = config.family == .qwen3 || config.family == .gemma3
        queryNorm = hasHeadNorms ? try reader.norm(prefix + names.queryNorm, config.headSize) : []
        keyNorm = hasHeadNorms ? try reader.norm(prefix + names.keyNorm, config.headSize) : []
        window = config.windows[index]
        rope = window == nil ? config.rope : config.localRope ?? config.rope
    }
}

/// Takes a model's weights by name, and holds their shapes against the settings.
struct WeightReader {
    let model: Model
    let configuration: ModelConfiguration

    func wrong(_ name: String, _ reason: String) -> FormatError {
        FormatError(.model, file: model.path, field: "tensor \(quoted(name))", reason: reason)
    }

    func matrix(_ name: String, _ rows: Int, _ columns: Int) throws(FormatError) -> PackedMatrix {
        guard let weight = model[name + ".weight"] else { throw wrong(name + ".weight", "missing") }
        guard weight.shape.count == 2, weight.rows == rows, weight.columns == columns else {
            throw wrong(
                weight.name,
                "its shape is \(weight.shape), the settings call for [\(rows), \(columns)]"
            )
        }
        let bias = model[name + ".bias"] != nil ? try vector(name + ".bias", rows) : []
        return try PackedMatrix(weight, bias: bias)
    }

    func vector(_ name: String, _ count: Int) throws(FormatError) -> [Float] {
        guard let weight = model[name] else { throw wrong(name, "missing") }
        guard weight.count == count else {
            throw wrong(name, "\(weight.count) values, the settings call for \(count)")
        }
        return try weight.floats()
    }

    func norm(_ name: String, _ count: Int) throws(FormatError) -> [Float] {
        let weights = try vector(name + ".weight", count)
        return configuration.addsOneToNorms ? weights.map { 1 + $0 } : weights
    }
}
