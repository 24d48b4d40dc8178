/// A model on disk, opened but not read: a folder, a GGUF file or a safetensors file.
public struct Model: Sendable {
    /// What a model was opened from.
    public enum Container: Sendable {
        /// A folder with a config.json.
        case folder(ModelFolder)
        /// A GGUF file, or the parts of a split one.
        case gguf(GGUFModel)
        /// A safetensors file alone.
        case safetensors(SafetensorsFile)
    }

    /// The path, as the model was opened.
    public let path: String
    /// The folder or file, with its settings or metadata.
    public let container: Container
    /// The weights, in the order of the files.
    public let weights: [Weight]
    private let places: [String: Int]

    /// Opens a model without reading its weights.
    ///
    /// - Parameters:
    ///   - path: of a model folder, a GGUF file (of a split model, any part), the folder that
    ///     `mlxquant export --to swift` made of a GGUF file, or a safetensors file.
    ///   - trustRemoteCode: accept a folder that wants its own Python code run; none is.
    /// - Throws: ``FormatError`` if it cannot be opened, or does not add up.
    public init(_ path: String, trustRemoteCode: Bool = false) throws(FormatError) {
        self.path = path
        guard kindOfPath(path) == .file else {
            if let file = try Folder(path).exportedGGUF() {
                let model = try GGUFModel(file)
                (container, weights) = (.gguf(model), model.tensors.map(Weight.init))
                places = Self.places(weights)
                return
            }
            let folder = try ModelFolder(path, trustRemoteCode: trustRemoteCode)
            (container, weights) = (.folder(folder), folder.weights)
            places = Self.places(weights)
            return
        }
        let isGGUF = try MappedFile(path).prefix(4) == Array("GGUF".utf8)
        if isGGUF || path.lowercased().hasSuffix(".gguf") {
            let model = try GGUFModel(path)
            (container, weights) = (.gguf(model), model.tensors.map(Weight.init))
        } else {
            let file = try SafetensorsFile(path)
            (container, weights) = (.safetensors(file), file.tensors.map(Weight.init))
        }
        places = Self.places(weights)
    }

    /// The weight of that name; nil where there is none.
    public subscript(_ name: String) -> Weight? {
        places[name].map { weights[$0] }
    }

    private static func places(_ weights: [Weight]) -> [String: Int] {
        Dictionary(uniqueKeysWithValues: weights.enumerated().map { ($1.name, $0) })
    }
}
