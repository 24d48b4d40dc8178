import MLXQuantFormats

extension Tokenizer {
    /// The classes that build what stands around a text anew from their settings, whatever
    /// `tokenizer.json` says.
    private static let classesOfSettings = [
        "LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
    ]

    /// Opens the tokenizer of a model folder.
    ///
    /// - Parameter folder: the path of a folder with `tokenizer.json`; `tokenizer_config.json`,
    ///   `special_tokens_map.json`, `chat_template.jinja` and `additional_chat_templates/` are read
    ///   where they are there.
    /// - Throws: `FormatError` if a file is missing or broken, or holds a tokenizer of a kind that
    ///   is not supported.
    public init(folder: String) throws(FormatError) {
        let folder = try Folder(folder)
        let file = try folder.member("tokenizer.json")
        let content = try JSON.readObject(file, limit: JSON.Limit.tokenizer)
        var (pipeline, special) = try TokenizerFile(content, path: file).pipeline()
        let settings = try folder.object("tokenizer_config.json", limit: JSON.Limit.tokenizer)
        let map = try folder.object("special_tokens_map.json", limit: JSON.Limit.config)
        var texts: [String: String] = [:]
        for member in (map?.members ?? []) + (settings?.members ?? [])
        where member.name.hasSuffix("_token") {
            let value = member.value
            if let text = value.string ?? value["content"]?.string { texts[member.name] = text }
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
    private static func ends(_ pipeline: Pipeline, _ files: [JSONObject?]) -> Set<Int> {
        var texts = files.compactMap { file in
            file?["eos_token"].flatMap { $0.string ?? $0["content"]?.string }
        }
        let known = Set(pipeline.added.tokens.map(\.content))
            .union(pipeline.normalizedAdded.tokens.map(\.content))
            .intersection(TokenHabits.turnEnds)
        texts += TokenHabits.ends(in: pipeline.model.table, known: known)
        return Set(texts.compactMap { pipeline.model.table.id(of: $0) })
    }

    /// Chat templates by name, as transformers' tokenizers read them, and so mlx-lm: where any file of
    /// one is there, tokenizer_config.json's do not count. (`chat_template.json` is a processor's,
    /// for models with images, and no tokenizer reads it.)
    private static func templates(
        _ folder: Folder,
        _ settings: JSONObject?
    ) throws(FormatError) -> [String: String] {
        let inside = "additional_chat_templates/"
        var files: [(name: String, file: String)] = []
        if folder.names.contains("chat_template.jinja") {
            files.append(("default", "chat_template.jinja"))
        }
        for file in try folder.extraFiles(code: false) where file.hasPrefix(inside) {
            files.append((String(file.dropFirst(inside.count).dropLast(6)), file))
        }
        var found: [String: String] = [:]
        for (name, file) in files { found[name] = try text(try folder.member(file)) }
        return files.isEmpty ? try templates(folder.path, settings?["chat_template"]) : found
    }

    /// The templates of `chat_template` in tokenizer_config.json: one, or a list of them with names.
    private static func templates(
        _ folder: String,
        _ setting: JSON?
    ) throws(FormatError) -> [String: String] {
        guard let setting, !setting.isNull else { return [:] }
        if let text = setting.string { return ["default": text] }
        func wrong(_ reason: String) -> FormatError {
            let file = folder + "/tokenizer_config.json"
            return FormatError(.file, file: file, field: "chat_template", reason: reason)
        }
        guard let list = setting.array else { throw wrong("a text or a list of texts expected") }
        var found: [String: String] = [:]
        for (index, entry) in list.enumerated() {
            guard let name = entry["name"]?.string, let text = entry["template"]?.string else {
                throw wrong("item \(index): a name and a template expected")
            }
            found[name] = text
        }
        return found
    }

    /// A template's file.
    private static func text(_ path: String) throws(FormatError) -> String {
        let file = try MappedFile(path)
        guard file.size <= TokenizerFile.longestText else {
            let reason = "\(file.size) bytes; the limit is \(TokenizerFile.longestText)"
            throw FormatError(.file, file: path, field: "size", reason: reason)
        }
        let text = file.withUnsafeBytes { String(validating: $0, as: UTF8.self) }
        guard let text else {
            throw FormatError(.file, file: path, field: "encoding", reason: "not UTF-8")
        }
        return text
    }
}
