// Whether a GGUF file's vocabulary can be true; see GGUFChecks.swift.

private let maxTokens = 1 << 22
private let byteType = 6
private let lastType = 6
/// How llama.cpp writes that there is no such token.
private let noToken = 0xFFFF_FFFF
/// Tokenizers that need merge rules.
private let paired = ["gpt2"]

extension GGUFModel {
    /// Checks the vocabulary against itself and against the embedding; a file may have none.
    ///
    /// - Throws: ``FormatError`` if it is bad: a token that is not UTF-8 or names no byte, types or
    ///   scores of a wrong number or type, a special token or a merge rule that cannot be.
    public func checkVocabulary() throws(FormatError) {
        let file = parts[0]
        let model = file["tokenizer.ggml.model"]?.string
        guard file["tokenizer.ggml.tokens"] != nil else {
            let none = file["tokenizer.ggml.model"] == nil
            guard none || model == "none" || model == "no_vocab" else {
                throw bad(file, "tokenizer.ggml.tokens", "missing")
            }
            return
        }
        guard let model, !model.isEmpty else {
            let reason = "missing or no text: the tokens' kind is not named"
            throw bad(file, "tokenizer.ggml.model", reason)
        }
        let count = try checkTokens(file, model)
        try checkScores(file, count)
        if file["tokenizer.ggml.merges"] != nil {
            try checkMerges(file)
        } else if paired.contains(model) {
            let reason = "missing, \(model) tokenizers need them"
            throw bad(file, "tokenizer.ggml.merges", reason)
        }
        try checkSpecialTokens(file, count)
        let embedding = file.tensors.first { $0.name == "token_embd.weight" }
        if let rows = embedding?.shape.first, rows < count {
            let reason = "\(count) tokens, but token_embd.weight has \(rows) rows"
            throw bad(file, "tokenizer.ggml.tokens", reason)
        }
    }
}

/// How many tokens there are, each of them UTF-8 and, where it is to be a byte, one.
private func checkTokens(_ file: GGUFFile, _ model: String) throws(FormatError) -> Int {
    let key = "tokenizer.ggml.tokens"
    let count = try texts(file, key)
    guard count > 0, count <= maxTokens else {
        throw bad(file, key, "\(count) tokens, 1 to \(maxTokens) expected")
    }
    let types = try parallel(file, "token_type", [.i32, .u32], count)?.ints
    if let types, let wrong = types.firstIndex(where: { $0 < 0 || $0 > lastType }) {
        let reason = "type \(types[wrong]) of token \(wrong), 0 to \(lastType) expected"
        throw bad(file, "tokenizer.ggml.token_type", reason)
    }
    var index = 0
    try file[key]?.forEachText { (token) throws(FormatError) in
        // where `<0x..>` means a byte whatever its type is
        let isByte = types?[index] == byteType || (model == "llama" && isLikeByte(token))
        guard !isByte || isByteToken(token) else {
            let text = quote(String(decoding: token, as: UTF8.self), limit: 60)
            let reason = "token \(index), \(text), is to be a byte such as <0x0A>"
            throw bad(file, key, reason)
        }
        index += 1
    }
    return count
}

private func checkScores(_ file: GGUFFile, _ count: Int) throws(FormatError) {
    let scores = try parallel(file, "scores", [.f32], count)?.doubles
    if let scores, let wrong = scores.firstIndex(where: { !$0.isFinite }) {
        throw bad(file, "tokenizer.ggml.scores", "\(scores[wrong]) for token \(wrong)")
    }
}

private func checkMerges(_ file: GGUFFile) throws(FormatError) {
    let key = "tokenizer.ggml.merges"
    _ = try texts(file, key)
    var index = 0
    try file[key]?.forEachText { (rule) throws(FormatError) in
        guard rule.dropFirst().dropLast().contains(UInt8(ascii: " ")) else {
            let text = quote(String(decoding: rule, as: UTF8.self), limit: 60)
            let reason = "rule \(index), \(text), is not two tokens with a space between"
            throw bad(file, key, reason)
        }
        index += 1
    }
}

/// Checks the ids of BOS, EOS and their kin.
private func checkSpecialTokens(_ file: GGUFFile, _ count: Int) throws(FormatError) {
    for key in file.keys where key.hasPrefix("tokenizer.ggml.") && key.hasSuffix("_token_id") {
        guard let value = file[key] else { continue }
        guard let index = value.int else {
            throw bad(file, key, "of type \(value.kind), an integer expected")
        }
        if index == noToken, key != "tokenizer.ggml.eos_token_id" {
            continue
        }
        guard index >= 0, index < count else {
            throw bad(file, key, "\(index) is outside the vocabulary of \(count) tokens")
        }
    }
}

/// How many texts an array has, each of them UTF-8.
private func texts(_ file: GGUFFile, _ key: String) throws(FormatError) -> Int {
    guard let value = file[key], value.itemType == .string else {
        throw bad(file, key, "of type \(file[key]?.kind ?? "none"), [str] expected")
    }
    var index = 0
    try value.forEachText { (text) throws(FormatError) in
        guard invalidUTF8(in: text) == nil else {
            let shown = "b\(quote(bytes: text.prefix(40)))"
            throw bad(file, key, "text \(index) is not UTF-8: \(shown)")
        }
        index += 1
    }
    return value.count
}

/// An array with an item for each token; nil where there is none.
private func parallel(
    _ file: GGUFFile,
    _ name: String,
    _ types: [GGUFValueType],
    _ count: Int
) throws(FormatError) -> GGUFValue? {
    let key = "tokenizer.ggml.\(name)"
    guard let value = file[key] else { return nil }
    guard let type = value.itemType, types.contains(type) else {
        throw bad(file, key, "of type \(value.kind), [\(types[0].name)] expected")
    }
    guard value.count == count else {
        throw bad(file, key, "\(value.count) items for \(count) tokens")
    }
    return value
}

/// `<0x..>`, with any two bytes.
private func isLikeByte(_ token: UnsafeRawBufferPointer) -> Bool {
    token.count == 6 && token.starts(with: "<0x".utf8) && token[5] == UInt8(ascii: ">")
}

/// `<0x0A>`: two hexadecimal digits.
private func isByteToken(_ token: UnsafeRawBufferPointer) -> Bool {
    isLikeByte(token)
        && token[3..<5].allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
                UInt8(ascii: "A")...UInt8(ascii: "F"):
                true
            default: false
            }
        }
}

private func bad(_ file: GGUFFile, _ key: String, _ reason: String) -> FormatError {
    file.fail(key, "bad vocabulary: \(reason)")
}
