import MLXQuantFormats

/// Reads a `tokenizer.json`.
struct TokenizerFile {
    /// For messages.
    let path: String
    private let root: JSONText

    /// The longest expression, text or template, in bytes, that is taken from a file.
    static let longestText = 4 << 20

    init(_ root: JSONText, path: String) {
        self.root = root
        self.path = path
    }

    func wrong(_ field: String, _ reason: String) -> FormatError {
        FormatError(.file, file: path, field: field, reason: reason)
    }

    /// Everything that turns text into ids.
    func pipeline() throws(FormatError) -> (Tokenizer.Pipeline, special: Set<Int>) {
        let (model, special) = try self.model()
        var pipeline = Tokenizer.Pipeline(model: model)
        try readNormalizer(root["normalizer"], into: &pipeline.normalizer)
        try readCuts(root["pre_tokenizer"], into: &pipeline.cuts)
        try readAround(root["post_processor"], into: &pipeline)
        try readDecoder(root["decoder"], into: &pipeline.decoding)
        for var token in try addedTokens() {
            // A text that the model has keeps the model's id.
            token.id = model.table.id(of: token.content) ?? token.id
            if token.isNormalized {
                var content = token.content.unicodeScalars.map(\.value)
                for step in pipeline.normalizer {
                    content = (try? step.apply(to: content)) ?? content
                }
                pipeline.normalizedAdded.add(token, scalars: content)
            } else {
                pipeline.added.add(token)
            }
        }
        return (pipeline, special)
    }

    private func addedTokens() throws(FormatError) -> [AddedTokens.Token] {
        var tokens: [AddedTokens.Token] = []
        for (index, entry) in (root["added_tokens"]?.array ?? []).enumerated() {
            guard let id = entry["id"]?.int, let content = entry["content"]?.string, id >= 0 else {
                throw wrong("added_tokens[\(index)]", "expected an id and a content")
            }
            let special = entry["special"]?.bool ?? false
            tokens.append(
                AddedTokens.Token(
                    id: id,
                    content: content,
                    isSingleWord: entry["single_word"]?.bool ?? false,
                    stripsLeft: entry["lstrip"]?.bool ?? false,
                    stripsRight: entry["rstrip"]?.bool ?? false,
                    isNormalized: entry["normalized"]?.bool ?? !special,
                    isSpecial: special
                )
            )
        }
        return tokens
    }

    private func model() throws(FormatError) -> (BytePairModel, special: Set<Int>) {
        guard let model = root["model"] else { throw wrong("model", "missing") }
        let kind = model["type"]?.string ?? (model["merges"] != nil ? "BPE" : "?")
        guard kind == "BPE" else {
            throw wrong("model.type", "\(kind) is not supported; this runtime knows BPE")
        }
        for name in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = model[name]
            if let value, !value.isNull, value.string != "", value.double != 0 {
                throw wrong("model.\(name)", "not supported")
            }
        }
        guard let vocab = model["vocab"]?.members, !vocab.isEmpty else {
            throw wrong("model.vocab", "expected tokens and their ids")
        }
        let added = try addedTokens()
        var table = TokenTable(capacity: vocab.count + added.count)
        for (text, value) in vocab {
            guard let id = value.int, table.add(text, id: id) else {
                throw wrong(
                    "model.vocab",
                    "the token \(quoted(text)) has no id of its own from 0 to "
                        + "\(TokenTable.mostTokens - 1)"
                )
            }
        }
        for token in added where table.id(of: token.content) == nil {
            guard table.add(token.content, id: token.id) else {
                throw wrong("added_tokens", "the id \(token.id) is taken, or out of range")
            }
        }
        var result = BytePairModel(table: table, joining: .merges(try merges(model, table)))
        result.takesWholeWords = model["ignore_merges"]?.bool ?? false
        if model["byte_fallback"]?.bool == true {
            let ids = (0..<256).compactMap { table.id(of: byteToken($0)).map(Int32.init) }
            guard ids.count == 256 else {
                throw wrong("model.vocab", "\(ids.count) of the 256 byte tokens are there")
            }
            result.byteIDs = ids
        }
        if let unknown = model["unk_token"]?.string {
            result.unknownID = table.id(of: unknown).map(Int32.init)
        }
        result.fusesUnknown = model["fuse_unk"]?.bool ?? false
        let special = added.filter(\.isSpecial).compactMap { table.id(of: $0.content) }
        return (result, Set(special))
    }

    private func merges(_ model: JSONText, _ table: TokenTable) throws(FormatError)
        -> [UInt64: UInt64]
    {
        guard let listed = model["merges"]?.array else {
            throw wrong("model.merges", "expected a list")
        }
        var merges: [UInt64: UInt64] = [:]
        merges.reserveCapacity(listed.count)
        for (rank, entry) in listed.enumerated() {
            let pair: (left: Substring, right: Substring)?
            if let text = entry.string {
                pair = pairOfTokens(text)
            } else if let both = entry.array, both.count == 2, let left = both[0].string,
                let right = both[1].string
            {
                pair = (left[...], right[...])
            } else {
                pair = nil
            }
            guard let pair, let key = mergeKey(pair.left, pair.right, table) else {
                throw wrong(
                    "model.merges[\(rank)]",
                    "expected two tokens that make a third, all in the vocabulary"
                )
            }
            // Of a pair that stands twice, the library keeps the later rank.
            merges[key.pair] = UInt64(rank) << 32 | UInt64(key.joint)
        }
        return merges
    }

    private func readNormalizer(
        _ step: JSONText?,
        into steps: inout [NormalizerStep],
        depth: Int = 0
    ) throws(FormatError) {
        guard let step, !step.isNull else { return }
        let kind = step["type"]?.string ?? "?"
        switch kind {
        case "Sequence":
            guard depth < 8 else { throw wrong("normalizer", "sequences nested too deep") }
            for part in step["normalizers"]?.array ?? [] {
                try readNormalizer(part, into: &steps, depth: depth + 1)
            }
        case "NFC": steps.append(.composed)
        case "NFD": steps.append(.decomposed)
        case "Lowercase": steps.append(.lowercase)
        case "Prepend":
            steps.append(.prepend(scalars(step["prepend"]?.string ?? "")))
        case "Replace":
            let wanted = try wanted(step["pattern"], "normalizer.pattern")
            steps.append(.replace(wanted, with: scalars(step["content"]?.string ?? "")))
        case "Strip":
            let left = step["strip_left"]?.bool ?? false
            steps.append(.strip(left: left, right: step["strip_right"]?.bool ?? false))
        default: throw wrong("normalizer.type", "\(kind) is not supported")
        }
    }

    private func readCuts(
        _ step: JSONText?,
        into steps: inout [CuttingStep],
        depth: Int = 0
    ) throws(FormatError) {
        guard let step, !step.isNull else { return }
        let kind = step["type"]?.string ?? "?"
        switch kind {
        case "Sequence":
            guard depth < 8 else { throw wrong("pre_tokenizer", "sequences nested too deep") }
            for part in step["pretokenizers"]?.array ?? [] {
                try readCuts(part, into: &steps, depth: depth + 1)
            }
        case "Split":
            let wanted = try wanted(step["pattern"], "pre_tokenizer.pattern")
            let inverted = step["invert"]?.bool ?? false
            steps.append(.split(wanted, try behavior(step), inverted: inverted))
        case "ByteLevel":
            if step["add_prefix_space"]?.bool ?? true { steps.append(.spaceBefore) }
            if step["use_regex"]?.bool ?? true {
                steps.append(.split(.pattern(try pattern(wordsOfGPT2)), .isolated, inverted: false))
            }
            steps.append(.bytes)
        case "Metaspace":
            steps.append(try metaspace(step))
        case "Digits":
            steps.append(.digits(individual: step["individual_digits"]?.bool ?? false))
        case "Punctuation":
            steps.append(.punctuation(try behavior(step)))
        case "WhitespaceSplit":
            steps.append(.split(.pattern(try pattern("\\s+")), .removed, inverted: false))
        case "Whitespace":
            steps.append(
                .split(.pattern(try pattern("\\w+|[^\\w\\s]+")), .removed, inverted: true)
            )
        default: throw wrong("pre_tokenizer.type", "\(kind) is not supported")
        }
    }

    private func metaspace(_ step: JSONText) throws(FormatError) -> CuttingStep {
        let replacement = scalars(step["replacement"]?.string ?? "\u{2581}")
        let scheme = step["prepend_scheme"]?.string ?? "always"
        guard replacement.count == 1, let prefix = CuttingStep.Prefix(rawValue: scheme) else {
            throw wrong("pre_tokenizer", "a Metaspace without a character or with another scheme")
        }
        let adds = step["add_prefix_space"]?.bool ?? true
        return .spaces(
            replacement[0],
            adds ? prefix : .never,
            splits: step["split"]?.bool ?? true
        )
    }

    private func behavior(_ step: JSONText) throws(FormatError) -> CuttingStep.Behavior {
        let name = step["behavior"]?.string ?? "Isolated"
        guard let behavior = CuttingStep.Behavior(rawValue: name) else {
            throw wrong("pre_tokenizer.behavior", "\(quoted(name)) is not supported")
        }
        return behavior
    }

    private func wanted(_ pattern: JSONText?, _ field: String) throws(FormatError) -> Wanted {
        if let literal = pattern?["String"]?.string, !literal.isEmpty {
            return .literal(scalars(literal))
        }
        guard let regex = pattern?["Regex"]?.string else {
            throw wrong(field, "expected a String or a Regex")
        }
        return .pattern(try self.pattern(regex, field))
    }

    private func pattern(_ regex: String, _ field: String = "pre_tokenizer") throws(FormatError)
        -> Pattern
    {
        do throws(Pattern.Failure) {
            return try Pattern(regex)
        } catch {
            guard case .syntax(let reason, let place) = error else {
                throw wrong(field, "too large an expression")
            }
            throw wrong(field, "at character \(place) of the expression: \(reason)")
        }
    }

    private func readAround(
        _ step: JSONText?,
        into pipeline: inout Tokenizer.Pipeline,
        depth: Int = 0
    ) throws(FormatError) {
        guard let step, !step.isNull else { return }
        let kind = step["type"]?.string ?? "?"
        switch kind {
        case "Sequence":
            guard depth < 8 else { throw wrong("post_processor", "sequences nested too deep") }
            for part in step["processors"]?.array ?? [] {
                try readAround(part, into: &pipeline, depth: depth + 1)
            }
        case "ByteLevel": break  // of offsets only
        case "BertProcessing", "RobertaProcessing":
            pipeline.before.insert(try pair(step["cls"]), at: 0)
            pipeline.after.append(try pair(step["sep"]))
        case "TemplateProcessing":
            var before: [Int] = []
            var after: [Int] = []
            var isAfter = false
            for part in step["single"]?.array ?? [] {
                if part["Sequence"] != nil {
                    isAfter = true
                    continue
                }
                let name = part["SpecialToken"]?["id"]?.string ?? ""
                guard let ids = step["special_tokens"]?[name]?["ids"]?.array else {
                    throw wrong("post_processor.special_tokens", "\(quoted(name)) is missing")
                }
                for id in ids {
                    guard let id = id.int, id >= 0 else {
                        throw wrong("post_processor.special_tokens", "an id that is none")
                    }
                    if isAfter { after.append(id) } else { before.append(id) }
                }
            }
            pipeline.before = before + pipeline.before
            pipeline.after += after
        default: throw wrong("post_processor.type", "\(kind) is not supported")
        }
    }

    private func pair(_ value: JSONText?) throws(FormatError) -> Int {
        guard let pair = value?.array, pair.count == 2, let id = pair[1].int, id >= 0 else {
            throw wrong("post_processor", "expected a token and its id")
        }
        return id
    }

    private func readDecoder(
        _ step: JSONText?,
        into decoding: inout Tokenizer.Decoding,
        depth: Int = 0
    ) throws(FormatError) {
        guard let step, !step.isNull else { return }
        let kind = step["type"]?.string ?? "?"
        switch kind {
        case "Sequence":
            guard depth < 8 else { throw wrong("decoder", "sequences nested too deep") }
            for part in step["decoders"]?.array ?? [] {
                try readDecoder(part, into: &decoding, depth: depth + 1)
            }
        case "ByteLevel": decoding.isByteLevel = true
        case "ByteFallback": decoding.hasByteTokens = true
        case "Fuse": break  // texts are joined in any case
        case "Replace":
            guard step["pattern"]?["String"]?.string == "\u{2581}",
                step["content"]?.string == " "
            else { throw wrong("decoder", "a Replace of anything but ▁ by a space") }
            decoding.unescapesSpaces = true
        case "Metaspace":
            decoding.unescapesSpaces = true
            let adds = step["add_prefix_space"]?.bool ?? true
            let scheme = step["prepend_scheme"]?.string ?? "always"
            if adds, scheme != "never" { decoding.strippedSpaces = 1 }
        case "Strip":
            guard step["content"]?.string == " ", step["stop"]?.int == 0 else {
                throw wrong("decoder", "a Strip of anything but spaces at the beginning")
            }
            decoding.strippedSpaces = step["start"]?.int ?? 0
        default: throw wrong("decoder.type", "\(kind) is not supported")
        }
    }

    private func scalars(_ text: String) -> [UInt32] { text.unicodeScalars.map(\.value) }
}

/// How GPT-2 cuts words.
let wordsOfGPT2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/// `<0x0A>` and its kin.
func byteToken(_ byte: Int) -> String {
    let digits = String(byte, radix: 16, uppercase: true)
    return "<0x" + (digits.utf8.count == 1 ? "0" : "") + digits + ">"
}

/// The two tokens of a merge that is written with a space between them.
///
/// A space as the first character is part of the token, as llama.cpp reads it.
func pairOfTokens(_ merge: String) -> (left: Substring, right: Substring)? {
    let scalars = merge.unicodeScalars
    guard let second = scalars.index(scalars.startIndex, offsetBy: 1, limitedBy: scalars.endIndex),
        second < scalars.endIndex,
        let space = scalars[second...].firstIndex(of: " ")
    else { return nil }
    let right = scalars.index(after: space)
    guard right < scalars.endIndex else { return nil }
    return (Substring(scalars[..<space]), Substring(scalars[right...]))
}

/// Two tokens as a key of `BytePairModel.Joining.merges`, and the token that they make.
func mergeKey(
    _ left: Substring,
    _ right: Substring,
    _ table: TokenTable
) -> (pair: UInt64, joint: Int32)? {
    guard let first = table.id(of: String(left)), let second = table.id(of: String(right)),
        let joint = table.id(of: String(left) + String(right))
    else { return nil }
    return (UInt64(first) << 32 | UInt64(second), Int32(joint))
}

/// A text from a file as a message shows it: on one line, and not too long.
func quoted(_ text: String) -> String {
    var shown = ""
    for scalar in text.unicodeScalars.prefix(60) {
        shown += scalar.escaped(asASCII: false)
    }
    return "'" + shown + (text.unicodeScalars.count > 60 ? "…'" : "'")
}
