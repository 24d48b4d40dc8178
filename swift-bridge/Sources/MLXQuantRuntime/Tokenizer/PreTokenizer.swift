/// How a byte-pair vocabulary of a GGUF file cuts text into words: what llama.cpp's names mean.
struct PreTokenizer: Sendable {
    /// The names, with a space between them.
    let names: String
    /// Expressions that are applied one after another: each cuts every piece so far into its matches
    /// and what lies between them.
    let patterns: [String]
    /// A word that is itself a token is never looked at further.
    var takesWholeWords = false
    /// Tokens are made of characters; else of bytes, each of which a character stands for.
    var isOfCharacters = false
    /// Spaces are written as U+2581 first.
    var escapesSpaces = false
    /// A run of newlines that is itself a token is never looked at further.
    var keepsLines = false
    /// Whether BOS comes first where the file does not say.
    var addsBOS = false

    init(
        names: String,
        patterns: [String],
        takesWholeWords: Bool = false,
        isOfCharacters: Bool = false,
        escapesSpaces: Bool = false,
        keepsLines: Bool = false,
        addsBOS: Bool = false
    ) {
        self.names = names
        self.patterns = patterns
        self.takesWholeWords = takesWholeWords
        self.isOfCharacters = isOfCharacters
        self.escapesSpaces = escapesSpaces
        self.keepsLines = keepsLines
        self.addsBOS = addsBOS
    }

    /// What a name stands for; nil where it is not known exactly.
    static func named(_ name: String) -> PreTokenizer? {
        all.first { row in row.names.split(separator: " ").contains { $0 == name } }
    }
}
