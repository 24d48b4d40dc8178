/// A model folder as a place: what it lists, and where its names and links may lead.
///
/// A name from inside a file (`weight_map`, `model_file`) or a symbolic link must not lead out of the
/// folder. A snapshot of the Hugging Face cache is made of links, so the two places where that cache
/// keeps file contents count as inside:
///
///     <cache>/models--org--name/snapshots/<commit>/model.safetensors
///           → <cache>/models--org--name/blobs/<hash>
///           → <cache>/blobs/<2 digits>/<hash>             (contents shared by several models)
package struct Folder {
    /// Suffixes of files that hold Python pickles, which can run code when they are opened.
    static let pickles = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"]

    private static let weights =
        pickles + [
            ".safetensors", ".gguf", ".npz", ".npy", ".h5", ".msgpack", ".onnx", ".zip",
        ]
    private static let extraPrefixes = [
        "tokenizer", "vocab.", "merges.", "LICENSE", "LICENCE", "NOTICE", "USE_POLICY",
    ]
    private static let extraSuffixes = [".tiktoken", ".jinja", ".model"]
    private static let extraNames = [
        "added_tokens.json", "chat_template.json", "generation_config.json",
        "preprocessor_config.json", "processor_config.json", "special_tokens_map.json",
        "video_preprocessor_config.json",
    ]
    private static let templateFolders = ["additional_chat_templates", "chat_templates"]

    /// As given, without a slash at its end.
    package let path: String
    /// Of everything in it but folders, sorted.
    package let names: [String]
    private let links: Set<String>
    private let roots: [String]

    /// Lists a folder.
    package init(_ path: String) throws(FormatError) {
        var path = path
        while path.utf8.count > 1, path.hasSuffix("/") {
            path.removeLast()
        }
        self.path = path
        func fail(_ reason: String) -> FormatError {
            FormatError(.model, file: path, field: "folder", reason: reason)
        }
        switch path.utf8.contains(0) ? nil : kindOfPath(path) {
        case nil where path.utf8.contains(0): throw fail("cannot be listed: a path with a NUL")
        case nil: throw fail("there is no such folder")
        case .folder: break
        case .file, .other:
            let what = describePath(path) ?? "a file"
            throw fail("this is \(what); give the folder of a model")
        }
        let listed: [String]
        switch listFolder(path) {
        case .success(let found): listed = found
        case .failure(let problem): throw fail("cannot be listed: \(problem.text)")
        }
        names = listed.filter { kindOfPath("\(path)/\($0)") != .folder }
        links = Set(names.filter { linkTarget("\(path)/\($0)") != nil })
        let real = realPath(path) ?? path
        var roots = [real]
        let parts = real.split(separator: "/")
        if parts.count >= 3, parts[parts.count - 2] == "snapshots",
            parts[parts.count - 3].hasPrefix("models--")
        {
            let cache = parts.dropLast(3).map { "/" + $0 }.joined()
            let repository = "\(cache)/\(parts[parts.count - 3])"
            roots += ["\(repository)/blobs", "\(cache)/blobs"].map { realPath($0) ?? $0 }
        }
        self.roots = roots
    }

    /// The path of a file of this folder, which need not exist.
    ///
    /// `namedBy` and `field` are the file and the field of it that the name comes from, to blame.
    package func member(
        _ name: String,
        namedBy: String? = nil,
        field: String = "file"
    ) throws(FormatError) -> String {
        func fail(_ reason: String) -> FormatError {
            FormatError(.model, file: namedBy ?? path, field: field, reason: reason)
        }
        let pieces = name.split(omittingEmptySubsequences: false) { $0 == "/" || $0 == "\\" }
        guard isPrintable(name), !pieces.contains(where: { ["", ".", ".."].contains($0) }),
            !(pieces.first?.contains(":") ?? true)
        else {
            throw fail("\(quote(name)) is outside the model folder, or no file name")
        }
        let file = "\(path)/\(name)"
        if pieces.count == 1 && !links.contains(name) {
            return file
        }
        // A link that leads nowhere is found when it is opened.
        guard let real = realPath(file) else { return file }
        guard roots.contains(where: { real == $0 || real.hasPrefix($0 + "/") }) else {
            let reason = "\(quote(name)) is a link to \(real), outside the model folder"
            throw fail("\(reason); copy the file here")
        }
        return file
    }

    /// The object that a JSON file of this folder holds; nil where there is no such file.
    package func object(_ name: String, limit: Int) throws(FormatError) -> JSONObject? {
        names.contains(name) ? try JSON.readObject(try member(name), limit: limit) : nil
    }

    /// What belongs to the model and is neither weights nor config.json: relative, sorted.
    package func extraFiles(code: Bool) throws(FormatError) -> [String] {
        var extras = names.filter { Self.isExtra($0, code: code) }
        for folder in Self.templateFolders where kindOfPath("\(path)/\(folder)") == .folder {
            if case .success(let inside) = listFolder("\(path)/\(folder)") {
                extras += inside.filter { $0.hasSuffix(".jinja") }.map { "\(folder)/\($0)" }
            }
        }
        var found: [String] = []
        for name in extras {
            let file = try member(name)
            if kindOfPath(file) == .file {
                found.append(name)
            } else if let target = linkTarget(file) {
                let reason = "\(quote(name)) is a link to \(quote(target)), which is missing"
                throw FormatError(.model, file: path, field: "file", reason: reason)
            }
        }
        return found.sorted()
    }

    /// The GGUF file of a folder that mlxquant made of one: with a manifest, and no config.json. Of a
    /// split model it is the first part; nil where this is another folder.
    func exportedGGUF() throws(FormatError) -> String? {
        guard names.contains(Manifest.fileName), !names.contains("config.json") else { return nil }
        let files = names.filter { $0.lowercased().hasSuffix(".gguf") && !$0.hasPrefix("mmproj") }
        let models = Set(files.map { PartName($0)?.part(1) ?? $0 })
        guard models.count <= 1 else {
            let few = models.sorted().prefix(3).joined(separator: ", ")
            let reason = "\(models.count) GGUF models (\(few), …); give one of them"
            throw FormatError(.model, file: path, field: "folder", reason: reason)
        }
        return try files.first.map { (name) throws(FormatError) in try member(name) }
    }

    /// Whether a file's name is that of a pickle.
    static func isPickle(_ name: String) -> Bool {
        let name = name.lowercased()
        return pickles.contains { name.hasSuffix($0) }
    }

    private static func isExtra(_ name: String, code: Bool) -> Bool {
        let lower = name.lowercased()
        if !isPrintable(name) || weights.contains(where: { lower.hasSuffix($0) }) {
            return false
        }
        if name.hasSuffix(".py") {
            return code
        }
        return extraNames.contains(name) || extraPrefixes.contains { name.hasPrefix($0) }
            || extraSuffixes.contains { name.hasSuffix($0) }
    }
}
