import MLXQuantFormats

/// A language model that runs on the processor, straight from its packed weights.
///
/// Llama (Mistral with it), Qwen 2 and 3 and Gemma 1 to 3, from MLX folders of any format that
/// mlxquant writes, and from GGUF files. Weights stay as they are on disk, mapped, and are decoded a
/// few rows at a time; sums are in float32.
///
/// A model is immutable, and several sessions may use it at once.
public final class LanguageModel: Sendable {
    /// The model's tokenizer: text to ids and back.
    public let tokenizer: Tokenizer
    /// Ids that end a text, or a turn of a conversation: the union of what the model's files say.
    public let endIDs: Set<Int>
    /// What the model's authors recommend for sampling; greedy where they recommend nothing.
    public let recommended: GenerationOptions
    let configuration: ModelConfiguration
    let parallel: Parallel
    private let embedding: PackedMatrix
    private let layers: [TransformerLayer]
    private let norm: [Float]
    private let head: PackedMatrix

    /// How many tokens the model was trained to see at once.
    public var contextLength: Int { configuration.contextLength }
    /// How many tokens it has scores for.
    public var vocabularySize: Int { head.rows }

    /// Opens a model.
    ///
    /// - Parameters:
    ///   - path: of a model folder or a GGUF file.
    ///   - threads: how many threads compute; 0 for one a processor.
    /// - Throws: `FormatError` if it cannot be opened, does not add up, or is of a family or in a
    ///   format that this runtime does not have.
    public convenience init(_ path: String, threads: Int = 0) throws(FormatError) {
        try self.init(Model(path), threads: threads)
    }

    /// A model that is open already.
    ///
    /// - Parameters:
    ///   - model: a folder or a GGUF file.
    ///   - threads: how many threads compute; 0 for one a processor.
    /// - Throws: `FormatError` as the other initializer.
    public init(_ model: Model, threads: Int = 0) throws(FormatError) {
        let prefix: String
        let names: TransformerLayer.Names
        let embeddingName: String
        switch model.container {
        case .folder(let folder):
            configuration = try ModelConfiguration(folder)
            tokenizer = try Tokenizer(folder: folder.path)
            recommended = try GenerationOptions(recommendedBy: folder)
            // A model with images has its text model within.
            let inner = "language_model.model.embed_tokens.weight"
            prefix = model[inner] == nil ? "" : "language_model."
            names = .folder(configuration.family)
            embeddingName = "model.embed_tokens"
        case .gguf(let gguf):
            configuration = try ModelConfiguration(gguf, frequencies: model["rope_freqs.weight"])
            tokenizer = try Tokenizer(gguf: gguf)
            recommended = GenerationOptions()
            prefix = ""
            names = .gguf(configuration.family)
            embeddingName = "token_embd"
        case .safetensors:
            throw FormatError(
                .request,
                file: model.path,
                field: "model",
                reason: "a file of weights alone cannot run; open the folder that it is in"
            )
        }
        let isFolder = embeddingName == "model.embed_tokens"
        let reader = WeightReader(model: model, configuration: configuration)
        guard let rows = model[prefix + embeddingName + ".weight"]?.rows else {
            throw reader.wrong(prefix + embeddingName + ".weight", "missing")
        }
        embedding = try reader.matrix(prefix + embeddingName, rows, configuration.hiddenSize)
        var layers: [TransformerLayer] = []
        for index in 0..<configuration.layers {
            let start = isFolder ? "\(prefix)model.layers.\(index)." : "blk.\(index)."
            layers.append(try TransformerLayer(reader, start, names, index))
        }
        self.layers = layers
        norm = try reader.norm(
            isFolder ? prefix + "model.norm" : "output_norm",
            configuration.hiddenSize
        )
        let headName = isFolder ? prefix + "lm_head" : "output"
        let hasHead = model[headName + ".weight"] != nil
        // Gemma's head is the embedding unless there is another, whatever its settings say.
        let isTied = configuration.family.isGemma ? !hasHead : configuration.isTied ?? !hasHead
        head =
            isTied ? embedding : try reader.matrix(headName, rows, configuration.hiddenSize)
        endIDs = tokenizer.endIDs.union(configuration.endIDs)
        parallel = Parallel(threads: threads)
    }

    /// A cache that holds nothing yet.
    func makeCache() -> KeyValueCache {
        KeyValueCache(
            layers: configuration.layers,
            width: configuration.keyValueHeads * configuration.headSize
        )
    }

    /// Scores of the token that comes next.
    ///
    /// - Parameters:
    ///   - tokens: ids that come after those in `cache`, at least one.
    ///   - cache: of the tokens before; afterwards it holds these too.
    ///   - all: whether scores are wanted after every token, and not after the last alone.
    /// - Returns: `vocabularySize` scores for each token that they are wanted of.
    /// - Throws: `FormatError` if an id is none that the model has.
    func logits(
        after tokens: some Collection<Int>,
        _ cache: KeyValueCache,
        all: Bool = false
    ) throws(FormatError) -> [Float] {
        let count = tokens.count
        let hidden = configuration.hiddenSize
        let space = Workspace(configuration, count)
        for (index, token) in tokens.enumerated() {
            guard (0..<embedding.rows).contains(token) else {
                throw FormatError(
                    .model,
                    field: "token \(token)",
                    reason: "the model has \(embedding.rows): its settings and its tokenizer are"
                        + " not of one model"
                )
            }
            embedding.row(token, into: space.x + index * hidden)
        }
        if configuration.embeddingScale != 1 {
            for index in 0..<(count * hidden) { space.x[index] *= configuration.embeddingScale }
        }
        cache.reserve(cache.count + count)
        for (index, layer) in layers.enumerated() {
            attend(layer, index, cache, space)
            transform(layer, space)
        }
        cache.advance(by: count)
        let first = all ? 0 : count - 1
        for token in first..<count {
            let x = space.x + token * hidden
            Kernels.normalize(x, norm, configuration.epsilon, x, hidden)
        }
        let wanted = count - first
        var scores = [Float](repeating: 0, count: wanted * head.rows)
        scores.withUnsafeMutableBufferPointer { buffer in
            guard let out = buffer.baseAddress else { return }
            head.multiply(space.x + first * hidden, wanted, into: out, parallel)
            if configuration.logitCap > 0 {
                Kernels.cap(out, buffer.count, at: configuration.logitCap)
            }
        }
        return scores
    }

    /// x += attention of x.
    private func attend(
        _ layer: TransformerLayer,
        _ index: Int,
        _ cache: KeyValueCache,
        _ space: Workspace
    ) {
        let config = configuration
        let count = space.count
        let width = config.keyValueHeads * config.headSize
        let keys = cache.keys(of: index)
        let values = cache.values(of: index)
        normalize(space, layer.attentionNorm)
        layer.query.multiply(space.normed, count, into: space.queries, parallel)
        layer.key.multiply(space.normed, count, into: keys + cache.count * width, parallel)
        layer.value.multiply(space.normed, count, into: values + cache.count * width, parallel)
        let queryWidth = config.heads * config.headSize
        for token in 0..<count {
            let query = space.queries + token * queryWidth
            let key = keys + (cache.count + token) * width
            normalizeHeads(query, config.heads, layer.queryNorm)
            normalizeHeads(key, config.keyValueHeads, layer.keyNorm)
            layer.rope.angles(at: cache.count + token, into: space.angles)
            layer.rope.apply(to: query, heads: config.heads, angles: space.angles)
            layer.rope.apply(to: key, heads: config.keyValueHeads, angles: space.angles)
        }
        let attention = Attention(
            config,
            layer.window,
            keys: keys,
            values: values,
            queries: space.queries,
            out: space.attended,
            seen: cache.count
        )
        let cost = 2 * config.headSize * (cache.count + count)
        parallel.over(count * config.heads, cost: cost) { attention.compute($0) }
        layer.output.multiply(space.attended, count, into: space.change, parallel)
        addChange(space, layer.afterAttentionNorm)
    }

    /// x += MLP of x.
    private func transform(_ layer: TransformerLayer, _ space: Workspace) {
        let count = space.count
        normalize(space, layer.mlpNorm)
        layer.gate.multiply(space.normed, count, into: space.gate, parallel)
        layer.up.multiply(space.normed, count, into: space.up, parallel)
        Kernels.gate(configuration.activation, space.gate, space.up, count * configuration.mlpSize)
        layer.down.multiply(space.gate, count, into: space.change, parallel)
        addChange(space, layer.afterMLPNorm)
    }

    private func normalize(_ space: Workspace, _ weight: [Float]) {
        let hidden = configuration.hiddenSize
        for token in 0..<space.count {
            Kernels.normalize(
                space.x + token * hidden,
                weight,
                configuration.epsilon,
                space.normed + token * hidden,
                hidden
            )
        }
    }

    private func normalizeHeads(
        _ values: UnsafeMutablePointer<Float>,
        _ heads: Int,
        _ weight: [Float]
    ) {
        if weight.isEmpty { return }
        for head in 0..<heads {
            let start = values + head * configuration.headSize
            Kernels.normalize(start, weight, configuration.epsilon, start, configuration.headSize)
        }
    }

    private func addChange(_ space: Workspace, _ norm: [Float]) {
        let hidden = configuration.hiddenSize
        for token in 0..<space.count {
            let change = space.change + token * hidden
            if !norm.isEmpty {
                Kernels.normalize(change, norm, configuration.epsilon, change, hidden)
            }
            Kernels.add(change, times: 1, to: space.x + token * hidden, hidden)
        }
    }
}

/// Attention of some tokens over all up to them.
///
/// Threads share it while ``LanguageModel/attend`` waits for them: keys, values and queries are only read
/// then, and each thread writes the part of `out` that belongs to its own heads.
private struct Attention: @unchecked Sendable {
    private let config: ModelConfiguration
    private let window: Int?
    private let keys: UnsafePointer<Float>
    private let values: UnsafePointer<Float>
    private let queries: UnsafePointer<Float>
    private let out: UnsafeMutablePointer<Float>
    /// Tokens before the first of these.
    private let seen: Int

    init(
        _ config: ModelConfiguration,
        _ window: Int?,
        keys: UnsafePointer<Float>,
        values: UnsafePointer<Float>,
        queries: UnsafePointer<Float>,
        out: UnsafeMutablePointer<Float>,
        seen: Int
    ) {
        (self.config, self.window, self.seen) = (config, window, seen)
        (self.keys, self.values, self.queries, self.out) = (keys, values, queries, out)
    }

    /// Computes some of all heads of all tokens, which are counted token by token.
    func compute(_ range: Range<Int>) {
        let size = config.headSize
        let width = config.keyValueHeads * size
        let shared = config.heads / config.keyValueHeads
        let most = seen + (range.upperBound - 1) / config.heads + 1
        withUnsafeTemporaryAllocation(of: Float.self, capacity: most) { room in
            guard let scores = room.baseAddress else { return }
            for index in range {
                let (token, head) = (index / config.heads, index % config.heads)
                let end = seen + token + 1
                let first = window.map { max(0, end - $0) } ?? 0
                let query = queries + index * size
                let offset = head / shared * size
                for at in first..<end {
                    scores[at - first] =
                        Kernels.dot(query, keys + at * width + offset, size) * config.queryScale
                }
                if config.attentionCap > 0 {
                    Kernels.cap(scores, end - first, at: config.attentionCap)
                }
                Kernels.softmax(scores, end - first)
                let to = out + index * size
                to.update(repeating: 0, count: size)
                for at in first..<end {
                    Kernels.add(
                        values + at * width + offset,
                        times: scores[at - first],
                        to: to,
                        size
                    )
                }
            }
        }
    }
}

/// Room for what is computed of some tokens.
private final class Workspace {
    let count: Int
    let x, normed, queries, attended, change, gate, up, angles: UnsafeMutablePointer<Float>

    init(_ config: ModelConfiguration, _ count: Int) {
        func room(_ width: Int) -> UnsafeMutablePointer<Float> {
            UnsafeMutablePointer<Float>.allocate(capacity: max(1, count * width))
        }
        self.count = count
        x = room(config.hiddenSize)
        normed = room(config.hiddenSize)
        change = room(config.hiddenSize)
        queries = room(config.heads * config.headSize)
        attended = room(config.heads * config.headSize)
        gate = room(config.mlpSize)
        up = room(config.mlpSize)
        angles = UnsafeMutablePointer<Float>.allocate(capacity: config.headSize)
    }

    deinit {
        for pointer in [x, normed, queries, attended, change, gate, up, angles] {
            pointer.deallocate()
        }
    }
}
