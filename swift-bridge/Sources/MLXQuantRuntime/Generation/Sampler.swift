#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Chooses the next token by its scores, as mlx-lm does: first what is left to choose from is
/// narrowed by top-p, min-p and top-k, in this order and at temperature 1, then the temperature is
/// applied and one is drawn.
struct Sampler: Sendable {
    /// How many tokens back a repetition is one.
    static let memory = 20

    private let options: GenerationOptions
    private var random: RandomNumbers

    init(_ options: GenerationOptions) {
        self.options = options
        var system = SystemRandomNumberGenerator()
        random = RandomNumbers(seed: options.seed ?? system.next())
    }

    /// The next token.
    ///
    /// - Parameters:
    ///   - scores: one a token.
    ///   - seen: the tokens so far.
    /// - Returns: its id.
    mutating func next(_ scores: inout [Float], after seen: [Int]) -> Int {
        if let penalty = options.repetitionPenalty, penalty != 1 {
            for token in Set(seen.suffix(Self.memory)) where scores.indices.contains(token) {
                scores[token] =
                    scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty
            }
        }
        let temperature = options.temperature ?? 0
        if temperature == 0 { return Self.greatest(scores) }
        return draw(scores, temperature)
    }

    /// The first of the greatest.
    static func greatest(_ scores: [Float]) -> Int {
        var best = 0
        for (index, score) in scores.enumerated() where score > scores[best] { best = index }
        return best
    }

    private mutating func draw(_ scores: [Float], _ temperature: Float) -> Int {
        let most = scores.max() ?? 0
        var sum = 0.0
        for score in scores { sum += Double(exp(score - most)) }
        func probability(_ token: Int) -> Double { Double(exp(scores[token] - most)) / sum }
        var tokens = Array(scores.indices)
        let (topP, topK) = (options.topP ?? 0, options.topK ?? 0)
        let isNarrowed = (topP > 0 && topP < 1) || (topK > 0 && topK < tokens.count)
        if isNarrowed {
            tokens.sort { scores[$0] == scores[$1] ? $0 < $1 : scores[$0] > scores[$1] }
        }
        if topP > 0, topP < 1 {
            // A token stays while those before it do not make up the share.
            var total = 0.0
            var kept = 0
            while kept < tokens.count, kept == 0 || total < Double(topP) {
                total += probability(tokens[kept])
                kept += 1
            }
            tokens.removeLast(tokens.count - kept)
        }
        if let minP = options.minP, minP > 0 {
            let least = log(minP)
            tokens = tokens.filter { scores[$0] - most >= least }
        }
        if topK > 0, topK < tokens.count { tokens.removeLast(tokens.count - topK) }
        return pick(tokens, tokens.map { exp((scores[$0] - most) / temperature) })
    }

    private mutating func pick(_ tokens: [Int], _ weights: [Float]) -> Int {
        let sum = weights.reduce(0.0) { $0 + Double($1) }
        var place = random.unit() * sum
        for (token, weight) in zip(tokens, weights) {
            place -= Double(weight)
            if place < 0 { return token }
        }
        return tokens.last ?? 0
    }
}
