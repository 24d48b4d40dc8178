/// Makes text of tokens that come one after another, and never gives out half a character.
///
/// What is given out for all tokens, together, is what ``Tokenizer/decode(_:skipSpecialTokens:)``
/// gives for them, except within a run of byte tokens that is no UTF-8.
public struct Detokenizer: Sendable {
    private let tokenizer: Tokenizer
    private let skipsSpecial: Bool
    /// A run of byte tokens is looked at as a whole, as the library does.
    private let isWhole: Bool
    /// Bytes that are not yet given out.
    private var waiting: [UInt8] = []
    /// Whether `waiting` comes from tokens of one byte each.
    private var isRun = false
    private var spacesToStrip: Int

    init(_ tokenizer: Tokenizer, skipSpecialTokens: Bool, isWhole: Bool) {
        self.tokenizer = tokenizer
        self.isWhole = isWhole
        skipsSpecial = skipSpecialTokens
        spacesToStrip = tokenizer.pipeline.decoding.strippedSpaces
    }

    /// Takes a token.
    ///
    /// - Parameter id: of the token; one that the vocabulary does not have is passed over.
    /// - Returns: the text that is complete with it, which may be empty.
    public mutating func append(_ id: Int) -> String {
        if skipsSpecial, tokenizer.isSpecial(id) { return "" }
        let text = tokenizer.pipeline.model.table.bytes(of: id)
        if text.isEmpty { return "" }
        let decoding = tokenizer.pipeline.decoding
        if decoding.isByteLevel {
            appendCharacters(text)
            return isWhole ? "" : complete()
        }
        if decoding.hasByteTokens, let byte = Self.byte(text) {
            isRun = true
            waiting.append(byte)
            return isWhole ? "" : complete()
        }
        let before = flush()
        var piece = String(decoding: text, as: UTF8.self)
        if decoding.unescapesSpaces {
            piece = String(
                String.UnicodeScalarView(piece.unicodeScalars.map { $0 == "\u{2581}" ? " " : $0 })
            )
        }
        return before + stripped(piece)
    }

    /// Ends the text.
    ///
    /// - Returns: what was held back; bytes that are no whole character become U+FFFD.
    public mutating func finish() -> String { flush() }

    /// The bytes of a token that is written in their alphabet; one that is not is taken as it is.
    private mutating func appendCharacters(_ text: ArraySlice<UInt8>) {
        let start = waiting.count
        for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
            guard let byte = ByteAlphabet.bytes[scalar.value] else {
                waiting.removeSubrange(start...)
                waiting.append(contentsOf: text)
                return
            }
            waiting.append(byte)
        }
    }

    /// The value of `<0x0A>` and its kin.
    private static func byte(_ text: ArraySlice<UInt8>) -> UInt8? {
        guard text.count == 6, text.starts(with: "<0x".utf8), text.last == UInt8(ascii: ">") else {
            return nil
        }
        return UInt8(String(decoding: text.dropFirst(3).prefix(2), as: UTF8.self), radix: 16)
    }

    /// Gives out what waits, all but a character that has only begun.
    private mutating func complete() -> String {
        let end = waiting.count - Self.unfinished(waiting)
        guard end > 0 else { return "" }
        let text = decoded(waiting[..<end])
        waiting.removeSubrange(..<end)
        return stripped(text)
    }

    private mutating func flush() -> String {
        if waiting.isEmpty { return "" }
        let text = decoded(waiting[...])
        waiting = []
        isRun = false
        return stripped(text)
    }

    /// Bytes as text. A run of byte tokens that is no UTF-8 is U+FFFD for every byte.
    private func decoded(_ bytes: ArraySlice<UInt8>) -> String {
        if isRun, String(validating: bytes, as: UTF8.self) == nil {
            return String(repeating: "\u{FFFD}", count: bytes.count)
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// How many bytes at the end are the beginning of a character.
    private static func unfinished(_ bytes: [UInt8]) -> Int {
        for back in 1...3 where back <= bytes.count {
            let byte = bytes[bytes.count - back]
            if byte & 0xC0 == 0x80 { continue }
            let length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1
            return length > back && byte <= 0xF4 ? back : 0
        }
        return 0
    }

    /// Without the spaces that the beginning of a text loses.
    private mutating func stripped(_ text: String) -> String {
        guard spacesToStrip > 0, !text.isEmpty else { return text }
        var kept = Substring(text).unicodeScalars
        while spacesToStrip > 0, kept.first == " " {
            kept.removeFirst()
            spacesToStrip -= 1
        }
        spacesToStrip = 0
        return String(kept)
    }
}
