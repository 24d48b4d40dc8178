/// Tokens that are found in a text before anything else is done with it.
struct AddedTokens: Sendable {
    struct Token: Sendable {
        var id: Int
        var content: String
        /// Only where no letter, digit or underscore stands beside it.
        var isSingleWord = false
        /// Whether it takes the whitespace before it along, and that behind it.
        var stripsLeft = false
        var stripsRight = false
        /// Whether it is looked for in the normalized text, itself normalized.
        var isNormalized = false
        /// Whether it means something to the model rather than to the reader.
        var isSpecial = false
    }

    /// A part of a text: a token, or what lies between tokens.
    enum Part: Equatable {
        case token(Int)
        case text(Range<Int>)
    }

    private(set) var tokens: [Token] = []
    /// Trie: node << 32 | scalar → node; node 0 is the root.
    private var edges: [UInt64: Int32] = [:]
    /// Index into `tokens` of what ends at a node.
    private var ends: [Int32] = [-1]
    private var firsts: Set<UInt32> = []

    /// Adds a token, and what to look for where it is not the token's content.
    mutating func add(_ token: Token, scalars: [UInt32]? = nil) {
        let wanted = scalars ?? token.content.unicodeScalars.map(\.value)
        guard let first = wanted.first else { return }
        firsts.insert(first)
        var node: Int32 = 0
        for scalar in wanted {
            let key = UInt64(node) << 32 | UInt64(scalar)
            if let next = edges[key] {
                node = next
            } else {
                node = Int32(ends.count)
                edges[key] = node
                ends.append(-1)
            }
        }
        ends[Int(node)] = Int32(tokens.count)
        tokens.append(token)
    }

    /// Cuts a text at the tokens in it: from the left, at each place the longest. Special tokens are
    /// looked for only where `findsSpecial` says so.
    func parts(
        of text: [UInt32],
        findsSpecial: Bool,
        _ budget: inout SearchBudget
    ) throws(Pattern.Failure) -> [Part] {
        if tokens.isEmpty { return text.isEmpty ? [] : [.text(0..<text.count)] }
        var steps = budget.steps(for: text.count)
        var parts: [Part] = []
        var done = 0
        var at = 0
        while at < text.count {
            guard firsts.contains(text[at]), let (token, end) = longest(text, at, &steps) else {
                at += 1
                continue
            }
            var start = at
            at = end
            if token.isSpecial && !findsSpecial { continue }
            if token.isSingleWord {
                let word = ScalarClasses.word
                if start > 0 && word.contains(text[start - 1]) { continue }
                if end < text.count && word.contains(text[end]) { continue }
            }
            var stop = end
            if token.stripsLeft {
                while start > done, ScalarClasses.whitespace.contains(text[start - 1]) {
                    start -= 1
                }
            }
            if token.stripsRight {
                while stop < text.count, ScalarClasses.whitespace.contains(text[stop]) { stop += 1 }
            }
            if start > done { parts.append(.text(done..<start)) }
            parts.append(.token(token.id))
            done = stop
            at = max(at, stop)
        }
        try budget.settle(left: steps)
        if done < text.count { parts.append(.text(done..<text.count)) }
        return parts
    }

    private func longest(_ text: [UInt32], _ start: Int, _ steps: inout Int) -> (Token, Int)? {
        var node: Int32 = 0
        var found: (Token, Int)?
        var at = start
        while at < text.count, steps >= 0, let next = edges[UInt64(node) << 32 | UInt64(text[at])] {
            node = next
            at += 1
            steps -= 1
            if ends[Int(node)] >= 0 { found = (tokens[Int(ends[Int(node)])], at) }
        }
        return found
    }
}
