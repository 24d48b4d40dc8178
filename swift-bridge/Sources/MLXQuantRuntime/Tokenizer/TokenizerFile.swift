import MLXQuantFormats

/// Reads a `tokenizer.json`.
struct TokenizerFile {
    /// For messages.
    let path: String
    let root: JSONObject

    /// The longest template, and the most text of added tokens, in bytes, that is taken from a file.
    static let longestText = 4 << 20

    init(_ root: JSONObject, path: String) {
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
        pipeline.normalizer = try normalizer()
        pipeline.cuts = try cuts()
        try readAround(into: &pipeline)
        try readDecoders(into: &pipeline.decoding)
        var budget = SearchBudget()
        var normalized = 0
        for var token in try addedTokens() {
            // A text that the model has keeps the model's id.
            token.id = model.table.id(of: token.content) ?? token.id
            if token.isNormalized {
                var content = token.content.unicodeScalars.map(\.value)
                do throws(Pattern.Failure) {
                    for step in pipeline.normalizer {
                        content = try step.apply(to: content, &budget)
                    }
                } catch {
                    throw wrong("normalizer", "of added tokens: \(error.reason)")
                }
                normalized += content.count
                guard normalized <= Self.longestText else {
                    throw wrong("normalizer", "makes too much text of the added tokens")
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
        var bytes = 0
        for (index, entry) in (root["added_tokens"]?.array ?? []).enumerated() {
            guard let id = entry["id"]?.int, let content = entry["content"]?.string, id >= 0 else {
                throw wrong("added_tokens[\(index)]", "expected an id and a content")
            }
            bytes += content.utf8.count
            guard bytes <= Self.longestText else {
                throw wrong("added_tokens", "more than \(Self.longestText) bytes of text")
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
        guard let vocab = model["vocab"]?.object?.members, !vocab.isEmpty else {
            throw wrong("model.vocab", "expected tokens and their ids")
        }
        let added = try addedTokens()
        var table = TokenTable(capacity: min(vocab.count + added.count, TokenTable.mostTokens))
        for token in vocab {
            guard let id = token.value.int, table.add(token.name, id: id) else {
                throw wrong(
                    "model.vocab",
                    "the token \(quoted(token.name)) has no id of its own from 0 to "
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

    private func merges(_ model: JSON, _ table: TokenTable) throws(FormatError)
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
