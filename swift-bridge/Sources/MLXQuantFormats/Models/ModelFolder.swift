/// A model folder, in Hugging Face's layout or MLX's, which is the same with packed weights.
///
///     config.json                        the model's settings; `quantization` if MLX packed it, and
///                                        `mlxquant` if weights are ggml's blocks
///     model.safetensors                  the weights, or
///     model-00001-of-0000N.safetensors   … in shards, with
///     model.safetensors.index.json       … {"weight_map": {tensor: shard}}
///     tokenizer.json, …                  what accompanies them
///     mlxquant.json                      what made it, and the SHA-256 of every file
///
/// Opening reads the settings and the headers, never a weight. Names and links stay inside the folder,
/// pickles are never opened, code is never run.
public struct ModelFolder: Sendable {
    /// The path, as the folder was opened, without a slash at its end.
    public let path: String
    /// What config.json holds: the model's settings.
    public let config: JSONObject
    /// What generation_config.json holds, where there is one.
    public let generationConfig: JSONObject?
    /// What tokenizer_config.json holds, where there is one.
    public let tokenizerConfig: JSONObject?
    /// What special_tokens_map.json holds, where there is one.
    public let specialTokensMap: JSONObject?
    /// What config.json says of MLX's packed weights; nil where there are none.
    public let quantization: Quantization?
    /// mlxquant.json; nil where there is none, or where it cannot be read (a note says so).
    public let manifest: Manifest?
    /// The weight files, in order.
    public let files: [SafetensorsFile]
    /// The weights in the order of the files, packed ones as one each.
    public let weights: [Weight]
    /// What belongs to the model and is neither weights nor config.json: paths relative to the
    /// folder, sorted.
    public let extraFiles: [String]
    /// What was seen and changes nothing, a line each.
    public let notes: [String]

    /// Opens a folder without reading its weights.
    ///
    /// - Parameters:
    ///   - path: of the folder.
    ///   - trustRemoteCode: accept a folder that wants its own Python code run; none is.
    /// - Throws: ``FormatError`` of the kind `file` if one of its files is broken or not what its
    ///   name says; of the kind `model` if its parts contradict each other or are missing, it leads
    ///   outside of itself, its weights are pickles, or it wants code run and is not trusted.
    public init(_ path: String, trustRemoteCode: Bool = false) throws(FormatError) {
        let folder = try Folder(path)
        self.path = folder.path
        config = try readConfiguration(folder)
        // may hold every added token
        tokenizerConfig = try folder.object("tokenizer_config.json", limit: JSON.Limit.tokenizer)
        generationConfig = try folder.object("generation_config.json", limit: 1 << 20)
        specialTokensMap = try folder.object("special_tokens_map.json", limit: JSON.Limit.config)
        if folder.names.contains("tokenizer.json") {
            try JSON.checkEnds(
                try folder.member("tokenizer.json"),
                limit: JSON.Limit.tokenizer
            )
        }
        try refuseCode(folder, config, tokenizerConfig, trusted: trustRemoteCode)
        let configPath = "\(folder.path)/config.json"
        let quantization = try Quantization(configPath, config)
        self.quantization = quantization
        let shards = try Shards(folder)
        files = shards.files
        let kept = try KeptBlocks(configPath, config, quantization, shards)
        let packed = try PackedLayers(configPath, config, quantization, shards)
        weights = shards.stored.compactMap { tensor in
            if packed.parts.contains(tensor.name) {
                return nil
            }
            return packed.weights[tensor.name] ?? kept.weights[tensor.name] ?? Weight(tensor)
        }
        extraFiles = try folder.extraFiles(code: trustRemoteCode)
        var notes = [quantization?.note].compactMap { $0 }
        notes += shards.notes + packed.notes + [kept.note].compactMap { $0 }
        (manifest, notes) = readManifest(folder, notes)
        self.notes = notes.map { oneLine($0) }
    }
}

extension ModelFolder {
    /// Reads tokenizer.json, of which opening looks at the ends only: all of it takes longer than all
    /// the rest.
    ///
    /// - Returns: what it holds; nil where there is none.
    /// - Throws: ``FormatError`` if it is no JSON object.
    public func tokenizer() throws(FormatError) -> JSONObject? {
        try Folder(path).object("tokenizer.json", limit: JSON.Limit.tokenizer)
    }
}

extension Weight {
    /// An array that is no part of a packed weight.
    init(_ tensor: StoredTensor) {
        let format = WeightFormat(tensor.type)
        self.init(
            name: tensor.name,
            shape: tensor.shape,
            format: format,
            parts: [tensor.region]
        )
    }

    /// A tensor of a GGUF file.
    init(_ tensor: GGUFTensor) {
        self.init(
            name: tensor.name,
            shape: tensor.shape,
            format: WeightFormat(tensor.type),
            parts: [tensor.region]
        )
    }
}

/// The manifest and the notes, with one more where it cannot be read.
func readManifest(_ folder: Folder, _ notes: [String]) -> (Manifest?, [String]) {
    guard folder.names.contains(Manifest.fileName) else { return (nil, notes) }
    do throws(FormatError) {
        let path = try folder.member(Manifest.fileName)
        let content = try JSON.readObject(path, limit: JSON.Limit.index)
        return (Manifest(content), notes)
    } catch {
        return (nil, notes + ["\(Manifest.fileName): \(error.field): \(error.reason)"])
    }
}
