import MLXQuantFormats

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

extension Tokenizer {
    /// The classes that build what stands around a text anew from their settings, whatever
    /// `tokenizer.json` says.
    private static let classesOfSettings = [
        "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
    ]

    /// Opens the tokenizer of a model folder.
    ///
    /// - Parameter folder: the path of a folder with `tokenizer.json`; `tokenizer_config.json`,
    ///   `special_tokens_map.json` and `chat_template.jinja` are read where they are there.
    /// - Throws: `FormatError` if the file is missing or broken, or holds a tokenizer of a kind
    ///   that is not supported.
    public init(folder: String) throws(FormatError) {
        let file = folder + "/tokenizer.json"
        let reader = TokenizerFile(try Self.json(file), path: file)
        var (pipeline, special) = try reader.pipeline()
        let settings = try Self.optionalJSON(folder + "/tokenizer_config.json")
        let map = try Self.optionalJSON(folder + "/special_tokens_map.json")
        var texts: [String: String] = [:]
        for (name, value) in (map?.members ?? []) + (settings?.members ?? [])
        where name.hasSuffix("_token") {
            if let text = value.string ?? value["content"]?.string { texts[name] = text }
        }
        let kind = settings?["tokenizer_class"]?.string ?? ""
        if Self.classesOfSettings.contains(where: { kind == $0 || kind == $0 + "Fast" }) {
            func around(_ flag: String, _ name: String, _ found: [Int]) -> [Int] {
                guard settings?[flag]?.bool ?? !found.isEmpty, let text = texts[name],
                    let id = pipeline.model.table.id(of: text)
                else { return [] }
                return [id]
            }
            pipeline.before = around("add_bos_token", "bos_token", pipeline.before)
            pipeline.after = around("add_eos_token", "eos_token", pipeline.after)
        }
        self.init(
            pipeline: pipeline,
            specialIDs: special,
            endIDs: Self.ends(pipeline, [settings, map]),
            specialTexts: texts,
            chatTemplates: try Self.templates(folder, settings)
        )
    }

    /// `eos_token` of each file, and added tokens that end a turn in known chat formats.
    private static func ends(_ pipeline: Pipeline, _ files: [JSONText?]) -> Set<Int> {
        var texts = files.compactMap { file in
            file?["eos_token"].flatMap { $0.string ?? $0["content"]?.string }
        }
        let known = Set(pipeline.added.tokens.map(\.content))
            .union(pipeline.normalizedAdded.tokens.map(\.content))
            .intersection(TokenHabits.turnEnds)
        texts += TokenHabits.ends(in: pipeline.model.table, known: known)
        return Set(texts.compactMap { pipeline.model.table.id(of: $0) })
    }

    private static func templates(
        _ folder: String,
        _ settings: JSONText?
    ) throws(FormatError) -> [String: String] {
        var found: [String: String] = [:]
        if let template = settings?["chat_template"] {
            if let text = template.string { found["default"] = text }
            for entry in template.array ?? [] {
                if let name = entry["name"]?.string, let text = entry["template"]?.string {
                    found[name] = text
                }
            }
        }
        let file = folder + "/chat_template.jinja"
        if isThere(file) {
            let mapped = try MappedFile(file)
            guard mapped.size <= TokenizerFile.longestText else {
                let reason = "\(mapped.size) bytes; the limit is \(TokenizerFile.longestText)"
                throw FormatError(.file, file: file, field: "size", reason: reason)
            }
            found["default"] = mapped.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
        }
        return found
    }

    private static func optionalJSON(_ path: String) throws(FormatError) -> JSONText? {
        isThere(path) ? try json(path) : nil
    }

    /// The largest file that is read, in bytes; several times what any tokenizer needs.
    private static let largestFile = 192 << 20

    private static func json(_ path: String) throws(FormatError) -> JSONText {
        let file = try MappedFile(path)
        guard file.size <= largestFile else {
            let reason = "\(file.size) bytes; the limit is \(largestFile)"
            throw FormatError(.file, file: path, field: "size", reason: reason)
        }
        do throws(JSONText.Failure) {
            return try file.withUnsafeBytes { (bytes) throws(JSONText.Failure) in
                try JSONText(parsing: bytes)
            }
        } catch {
            throw FormatError(
                .file,
                file: path,
                field: "content",
                offset: error.offset,
                reason: "invalid JSON: \(error.reason)"
            )
        }
    }

    private static func isThere(_ path: String) -> Bool { access(path, F_OK) == 0 }
}
