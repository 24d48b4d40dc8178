import MLXQuantFormats

/// Text to token ids and back, with the ids that the `tokenizers` library and llama.cpp give.
///
/// Byte-pair encoding is what it knows: of bytes (GPT-2, Llama 3, Qwen) and of characters with bytes
/// to fall back on (Llama 2, Gemma), read from a `tokenizer.json` or from a GGUF file's metadata.
/// A tokenizer is immutable and may be used from several tasks at once.
public struct Tokenizer: Sendable {
    /// The steps that a text goes through.
    struct Pipeline: Sendable {
        var added = AddedTokens()
        /// Added tokens that are looked for in the normalized text.
        var normalizedAdded = AddedTokens()
        var normalizer: [NormalizerStep] = []
        var cuts: [CuttingStep] = []
        var model: BytePairModel
        /// What is put before a text, and behind it.
        var before: [Int] = []
        var after: [Int] = []
        var decoding = Decoding()
    }

    /// What tokens stand for in text.
    struct Decoding: Sendable {
        /// Tokens are written in the alphabet of bytes.
        var isByteLevel = false
        /// `<0x0A>` and its kin are bytes.
        var hasByteTokens = false
        /// U+2581 is a space.
        var unescapesSpaces = false
        /// How many spaces are taken off the beginning of a text.
        var strippedSpaces = 0
    }

    let pipeline: Pipeline
    /// Added tokens that mean something to the model rather than to the reader.
    let specialIDs: Set<Int>
    /// Ids that end a text, or a turn of a conversation, as far as the tokenizer's files say.
    public let endIDs: Set<Int>
    /// Names such as `bos_token` → the token's text, for chat templates.
    let specialTexts: [String: String]
    /// Chat templates by name; the usual one is `default`.
    public let chatTemplates: [String: String]

    /// The id that begins a text, where the model has one.
    public var bosID: Int? { specialTexts["bos_token"].flatMap { id(of: $0) } }
    /// The id that ends a text, where the model has one.
    public var eosID: Int? { specialTexts["eos_token"].flatMap { id(of: $0) } }
    /// One more than the largest id.
    public var idCount: Int { pipeline.model.table.idCount }

    init(
        pipeline: Pipeline,
        specialIDs: Set<Int>,
        endIDs: Set<Int>,
        specialTexts: [String: String],
        chatTemplates: [String: String]
    ) {
        self.pipeline = pipeline
        self.specialIDs = specialIDs
        self.endIDs = endIDs
        self.specialTexts = specialTexts
        self.chatTemplates = chatTemplates
    }

    /// The id of a token by its text, as the vocabulary writes it; nil where there is no such token.
    public func id(of token: String) -> Int? { pipeline.model.table.id(of: token) }

    /// A token as the vocabulary writes it; nil where there is no such id.
    public func token(_ id: Int) -> String? { pipeline.model.table.text(of: id) }

    /// Whether a token means something to the model rather than to the reader.
    public func isSpecial(_ id: Int) -> Bool { specialIDs.contains(id) }

    /// The ids of a text.
    ///
    /// - Parameters:
    ///   - text: any text.
    ///   - addSpecialTokens: whether what the tokenizer puts around a text is added, such as a BOS.
    ///   - parseSpecialTokens: whether special tokens that are written out in the text are those
    ///     tokens. Pass false for text of strangers.
    /// - Returns: the ids, in order.
    /// - Throws: `FormatError` if an expression of the tokenizer takes more steps than a text of
    ///   this length may.
    public func encode(
        _ text: String,
        addSpecialTokens: Bool = true,
        parseSpecialTokens: Bool = true
    ) throws(FormatError) -> [Int] {
        var ids = addSpecialTokens ? pipeline.before : []
        do throws(Pattern.Failure) {
            try encode(text.unicodeScalars.map(\.value), parseSpecialTokens, into: &ids)
        } catch {
            throw FormatError(.model, field: "pre_tokenizer", reason: error.reason)
        }
        if addSpecialTokens { ids += pipeline.after }
        return ids
    }

    private func encode(
        _ text: [UInt32],
        _ findsSpecial: Bool,
        into ids: inout [Int]
    ) throws(Pattern.Failure) {
        var words = WordMemory()
        var budget = SearchBudget()
        let parts = try pipeline.added.parts(of: text, findsSpecial: findsSpecial, &budget)
        for part in parts {
            switch part {
            case .token(let id):
                ids.append(id)
            case .text(let range):
                var piece = Array(text[range])
                for step in pipeline.normalizer { piece = try step.apply(to: piece, &budget) }
                let isFirst = range.lowerBound == 0
                let found = try pipeline.normalizedAdded.parts(
                    of: piece,
                    findsSpecial: findsSpecial,
                    &budget
                )
                for part in found {
                    switch part {
                    case .token(let id): ids.append(id)
                    case .text(let range):
                        let first = isFirst && range.lowerBound == 0
                        try encode(piece[range], isFirst: first, &words, &budget, into: &ids)
                    }
                }
            }
        }
    }

    private func encode(
        _ text: ArraySlice<UInt32>,
        isFirst: Bool,
        _ words: inout WordMemory,
        _ budget: inout SearchBudget,
        into ids: inout [Int]
    ) throws(Pattern.Failure) {
        var pieces = Pieces(text, isFirst: isFirst)
        for step in pipeline.cuts { try pieces.apply(step, &budget) }
        for piece in pieces.pieces {
            if let known = words[piece.text] {
                ids += known
            } else {
                let start = ids.count
                pipeline.model.encode(piece.text, into: &ids)
                words.remember(piece.text, ids[start...])
            }
        }
    }

    /// The text of tokens. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// - Parameters:
    ///   - ids: of tokens; those that the vocabulary does not have are left out.
    ///   - skipSpecialTokens: whether special tokens are left out.
    /// - Returns: the text.
    public func decode(_ ids: [Int], skipSpecialTokens: Bool = false) -> String {
        var stream = Detokenizer(self, skipSpecialTokens: skipSpecialTokens, isWhole: true)
        return ids.reduce(into: "") { $0 += stream.append($1) } + stream.finish()
    }

    /// Text from tokens that come one after another.
    ///
    /// - Parameter skipSpecialTokens: whether special tokens are left out.
    /// - Returns: what takes one token after another.
    public func detokenizer(skipSpecialTokens: Bool = false) -> Detokenizer {
        Detokenizer(self, skipSpecialTokens: skipSpecialTokens, isWhole: false)
    }
}

/// Words that one call has seen already, and their ids.
private struct WordMemory {
    private var ids: [ArraySlice<UInt32>: [Int]] = [:]
    private static let longest = 64
    private static let most = 1 << 16

    subscript(_ word: ArraySlice<UInt32>) -> [Int]? {
        word.count <= Self.longest ? ids[word] : nil
    }

    mutating func remember(_ word: ArraySlice<UInt32>, _ found: ArraySlice<Int>) {
        if word.count <= Self.longest, ids.count < Self.most { ids[word] = Array(found) }
    }
}
