import MLXQuantFormats

/// Reads the tokenizer of a GGUF file's metadata: the ids are llama.cpp's.
struct GGUFVocabulary {
    /// `tokenizer.ggml.token_type`.
    enum Kind: Int {
        case undefined, normal, unknown, control, userDefined, unused, byte
    }

    static let longestToken = 1 << 14
    private static let prefix = "tokenizer.ggml."
    private static let defaultIDs: [String: [String: Int]] = [
        "llama": ["bos": 1, "eos": 2, "unknown": 0],
        "gpt2": ["bos": 11, "eos": 11],
        "gemma4": [:],
    ]

    private let model: GGUFModel
    private let path: String
    /// `gpt2`, `gemma4` or `llama`.
    private let family: String
    private let pre: String
    private let row: PreTokenizer
    let table: TokenTable
    private var kinds: [Kind]

    init(_ model: GGUFModel) throws(FormatError) {
        self.model = model
        path = model.parts[0].file.path
        func wrong(_ key: String, _ reason: String) -> FormatError {
            FormatError(.file, file: model.parts[0].file.path, field: key, reason: reason)
        }
        guard let family = model[Self.prefix + "model"]?.string else {
            throw wrong(Self.prefix + "model", "missing; the file has no tokenizer")
        }
        guard Self.defaultIDs[family] != nil else {
            let reason =
                "\(quoted(family)) is not supported; this runtime knows gpt2, llama, gemma4"
            throw wrong(Self.prefix + "model", reason)
        }
        self.family = family
        pre = family == "gemma4" ? family : model[Self.prefix + "pre"]?.string ?? "default"
        if family == "llama" {
            row = PreTokenizer(names: "", patterns: [], isOfCharacters: true)
        } else if let found = PreTokenizer.named(pre) {
            row = found
        } else {
            throw wrong(Self.prefix + "pre", "the pre-tokenizer \(quoted(pre)) is not known")
        }
        table = try Self.readTokens(model, wrong)
        kinds = try Self.readKinds(model, table, wrong)
        correctKinds()
    }

    func wrong(_ key: String, _ reason: String) -> FormatError {
        FormatError(.file, file: path, field: Self.prefix + key, reason: reason)
    }

    func flag(_ name: String, default value: Bool) -> Bool {
        model[Self.prefix + name]?.bool ?? value
    }

    /// The id that a key names, or else the one that llama.cpp takes.
    func id(_ role: String) throws(FormatError) -> Int? {
        guard let value = model["\(Self.prefix)\(role)_token_id"] else {
            let id = Self.defaultIDs[family]?[role]
            return id.flatMap { $0 < table.idCount ? $0 : nil }
        }
        guard let id = value.int, (0..<table.idCount).contains(id) else {
            throw wrong(
                "\(role)_token_id",
                "expected a token id from 0 to \(table.idCount - 1)"
            )
        }
        return id
    }

    func isGiven(_ role: String) -> Bool { model["\(Self.prefix)\(role)_token_id"] != nil }

    private static func readTokens(
        _ model: GGUFModel,
        _ wrong: (String, String) -> FormatError
    ) throws(FormatError) -> TokenTable {
        let key = prefix + "tokens"
        guard let value = model[key], value.itemType == .string else {
            throw wrong(key, "expected a list of texts")
        }
        guard (1...TokenTable.mostTokens).contains(value.count) else {
            throw wrong(key, "\(value.count) tokens; expected 1 to \(TokenTable.mostTokens)")
        }
        var table = TokenTable(capacity: value.count)
        var id = 0
        try value.forEachText { (bytes) throws(FormatError) in
            guard bytes.count <= longestToken else {
                throw wrong(key, "token \(id) has \(bytes.count) bytes; limit \(longestToken)")
            }
            guard var text = String(validating: bytes, as: UTF8.self) else {
                throw wrong(key, "token \(id) is not valid UTF-8")
            }
            // llama.cpp names empty tokens so, and must: two of them would be one text.
            if text.isEmpty { text = "[EMPTY_\(id)]" }
            if let other = table.id(of: text) {
                throw wrong(key, "\(quoted(text)) is both token \(other) and token \(id)")
            }
            guard table.add(text, id: id) else { throw wrong(key, "too much text") }
            id += 1
        }
        return table
    }

    private static func readKinds(
        _ model: GGUFModel,
        _ table: TokenTable,
        _ wrong: (String, String) -> FormatError
    ) throws(FormatError) -> [Kind] {
        let key = prefix + "token_type"
        guard let value = model[key] else { return Array(repeating: .normal, count: table.idCount) }
        guard let numbers = value.ints, numbers.count == table.idCount else {
            throw wrong(key, "expected \(table.idCount) numbers, one for each token")
        }
        var kinds: [Kind] = []
        kinds.reserveCapacity(numbers.count)
        for (id, number) in numbers.enumerated() {
            guard let kind = Kind(rawValue: number) else {
                throw wrong(key, "token \(id) has type \(number); expected 0 to 6")
            }
            kinds.append(kind)
        }
        return kinds
    }

    /// Some texts have a kind of their own.
    private mutating func correctKinds() {
        var control = TokenHabits.endsByText
        for (keys, texts, _) in TokenHabits.fillInMiddle
        where !keys.contains(where: { model[Self.prefix + $0] != nil }) {
            control.formUnion(texts)
        }
        for text in control {
            if let id = table.id(of: text) { kinds[id] = .control }
        }
        let eos = model[Self.prefix + "eos_token_id"]?.int.flatMap(table.text)
        if table.id(of: "<|tool_response>") != nil || eos == "<|plamo:eos|>",
            let id = table.id(of: "</s>")
        {
            kinds[id] = .normal
        }
        var found = TokenHabits.alwaysFound
        if TokenHabits.endsMessageOnly(table) { found.insert("<|end|>") }
        for text in found {
            if let id = table.id(of: text) { kinds[id] = .userDefined }
        }
    }

    /// Everything that turns text into ids.
    func pipeline() throws(FormatError) -> (Tokenizer.Pipeline, special: Set<Int>) {
        var pipeline = Tokenizer.Pipeline(model: try bytePairModel())
        try addSteps(to: &pipeline)
        var special: Set<Int> = []
        // It is looked through for every token.
        let name = String((model["general.name"]?.string ?? "").prefix(256)).lowercased()
        for (id, kind) in kinds.enumerated() {
            guard kind == .control || kind == .unknown || kind == .userDefined,
                let text = table.text(of: id)
            else { continue }
            let (left, right) = TokenHabits.swallows(text, model: name, pre: pre)
            var token = AddedTokens.Token(id: id, content: text)
            (token.stripsLeft, token.stripsRight) = (left, right)
            token.isSpecial = kind != .userDefined
            if token.isSpecial { special.insert(id) }
            pipeline.added.add(token)
        }
        if row.keepsLines || flag("add_bos_token", default: family == "llama" || row.addsBOS) {
            guard let id = try id("bos") else {
                throw wrong("add_bos_token", "a token is to be added, but there is no bos token")
            }
            pipeline.before = [id]
        }
        if flag("add_eos_token", default: false) {
            guard let id = try id("eos") else {
                throw wrong("add_eos_token", "a token is to be added, but there is no eos token")
            }
            pipeline.after = [id]
        }
        return (pipeline, special)
    }

    private func bytePairModel() throws(FormatError) -> BytePairModel {
        let bytes = (0..<256).compactMap { table.id(of: byteToken($0)).map(Int32.init) }
        if family == "llama" {
            guard bytes.count == 256 else {
                throw wrong("tokens", "\(bytes.count) of the 256 byte tokens are there")
            }
            guard let scores = model[Self.prefix + "scores"]?.doubles,
                scores.count == table.idCount, scores.allSatisfy(\.isFinite)
            else { throw wrong("scores", "expected \(table.idCount) numbers, one for each token") }
            var result = BytePairModel(table: table, joining: .scores(scores.map { Float($0) }))
            result.byteIDs = bytes
            return result
        }
        var result = BytePairModel(table: table, joining: .merges(try readMerges()))
        result.takesWholeWords = row.takesWholeWords
        if row.isOfCharacters {
            guard bytes.count == 256 || bytes.isEmpty else {
                throw wrong("tokens", "\(bytes.count) of the 256 byte tokens are there")
            }
            result.byteIDs = bytes
        }
        return result
    }

    private func readMerges() throws(FormatError) -> [UInt64: UInt64] {
        guard let value = model[Self.prefix + "merges"], value.itemType == .string else {
            throw wrong("merges", "expected a list of texts")
        }
        var merges: [UInt64: UInt64] = [:]
        merges.reserveCapacity(value.count)
        var rank = 0
        try value.forEachText { (bytes) throws(FormatError) in
            guard let text = String(validating: bytes, as: UTF8.self),
                let pair = pairOfTokens(text), let key = mergeKey(pair.left, pair.right, table)
            else {
                let reason = "expected two tokens that make a third, all in the vocabulary"
                throw wrong("merges", "merge \(rank): \(reason)")
            }
            // Of a pair that stands twice, the first counts.
            if merges[key.pair] == nil { merges[key.pair] = UInt64(rank) << 32 | UInt64(key.joint) }
            rank += 1
        }
        return merges
    }

    private func addSteps(to pipeline: inout Tokenizer.Pipeline) throws(FormatError) {
        let space: [UInt32] = [0x2581]
        let escapes = row.escapesSpaces || family == "llama"
        if family == "llama", flag("add_space_prefix", default: true) {
            pipeline.normalizer.append(.prepend(space))
            pipeline.decoding.strippedSpaces = 1
        }
        if escapes { pipeline.normalizer.append(.replace(.literal([0x20]), with: space)) }
        for pattern in row.patterns {
            do throws(Pattern.Failure) {
                let pattern = try Pattern(pattern)
                pipeline.cuts.append(.split(.pattern(pattern), .isolated, inverted: false))
            } catch {
                throw wrong("pre", "the pre-tokenizer \(quoted(pre)) is not supported")
            }
        }
        if row.isOfCharacters {
            pipeline.decoding.hasByteTokens = true
            pipeline.decoding.unescapesSpaces = escapes
        } else {
            pipeline.cuts.append(.bytes)
            pipeline.decoding.isByteLevel = true
        }
        if pipeline.model.byteIDs.isEmpty {
            // Characters that are no tokens are left out after merging: what stands beside them
            // stays apart.
            let known = (0...ScalarSet.last).filter { pipeline.model.id(ofCharacter: $0) != nil }
            let missing = ScalarSet(known.map { $0...$0 }).inverted
            if !row.isOfCharacters, ByteAlphabet.characters.allSatisfy({ !missing.contains($0) }) {
                return
            }
            pipeline.cuts.append(.split(.scalar(missing), .isolated, inverted: false))
        }
    }
}

extension Tokenizer {
    /// Opens the tokenizer of a GGUF file.
    ///
    /// - Parameter gguf: an open file, or the parts of one.
    /// - Throws: `FormatError` if it has no tokenizer, a broken one, or one of a kind that is not
    ///   supported.
    public init(gguf: GGUFModel) throws(FormatError) {
        let reader = try GGUFVocabulary(gguf)
        let (pipeline, special) = try reader.pipeline()
        var texts: [String: String] = [:]
        for (role, key) in [
            ("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"),
            ("sep", "seperator"), ("mask", "mask"),
        ] {
            // An id that llama.cpp assumes may be any token in this vocabulary.
            if let id = try reader.id(key), reader.isGiven(key) || special.contains(id) {
                texts["\(role)_token"] = reader.table.text(of: id)
            }
        }
        var ends = TokenHabits.turnEnds.union(TokenHabits.endsByText)
        var endIDs: Set<Int> = []
        for role in ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
            if reader.isGiven(role), let id = try reader.id(role) { endIDs.insert(id) }
        }
        for (keys, known, isEnd) in TokenHabits.fillInMiddle
        where isEnd && !keys.contains(where: { gguf["tokenizer.ggml." + $0] != nil }) {
            ends.formUnion(known)
        }
        for text in TokenHabits.ends(in: reader.table, known: ends) {
            if let id = reader.table.id(of: text) { endIDs.insert(id) }
        }
        self.init(
            pipeline: pipeline,
            specialIDs: special,
            endIDs: endIDs,
            specialTexts: texts,
            chatTemplates: try reader.templates()
        )
    }
}

extension GGUFVocabulary {
    /// Chat templates by name; the usual one is `default`.
    fileprivate func templates() throws(FormatError) -> [String: String] {
        let key = "tokenizer.chat_template"
        var found: [String: String] = [:]
        for part in model.parts {
            for name in part.keys where name == key || name.hasPrefix(key + ".") {
                guard let text = part[name]?.string,
                    text.utf8.count <= TokenizerFile.longestText
                else {
                    throw FormatError(
                        .file,
                        file: path,
                        field: name,
                        reason: "expected a text of at most \(TokenizerFile.longestText) bytes"
                    )
                }
                found[name == key ? "default" : String(name.dropFirst(key.count + 1))] = text
            }
        }
        return found
    }
}
