/// What to look for in a text.
enum Wanted: Sendable {
    case literal([UInt32])
    case pattern(Pattern)
    /// One of these.
    case scalar(ScalarSet)

    /// Where it is, from left to right.
    func matches(
        in text: ArraySlice<UInt32>,
        _ budget: inout SearchBudget
    ) throws(Pattern.Failure) -> [Range<Int>] {
        switch self {
        case .pattern(let pattern):
            return try pattern.matches(in: text, &budget)
        case .scalar(let set):
            return text.indices.filter { set.contains(text[$0]) }.map { $0..<($0 + 1) }
        case .literal(let wanted):
            guard let first = wanted.first else { return [] }
            var found: [Range<Int>] = []
            var at = text.startIndex
            while at + wanted.count <= text.endIndex {
                if text[at] == first, text[at..<(at + wanted.count)].elementsEqual(wanted) {
                    found.append(at..<(at + wanted.count))
                    at += wanted.count
                } else {
                    at += 1
                }
            }
            return found
        }
    }
}

/// A step of a tokenizer's normalizer: text to text.
enum NormalizerStep: Sendable {
    case composed
    case decomposed
    case lowercase
    case prepend([UInt32])
    case replace(Wanted, with: [UInt32])
    case strip(left: Bool, right: Bool)

    func apply(
        to text: [UInt32],
        _ budget: inout SearchBudget
    ) throws(Pattern.Failure) -> [UInt32] {
        switch self {
        case .composed: return NormalForm.composed(text)
        case .decomposed: return NormalForm.decomposed(text)
        case .lowercase:
            return text.flatMap { scalar in
                Unicode.Scalar(scalar)?.properties.lowercaseMapping.unicodeScalars.map(\.value) ?? [
                    scalar
                ]
            }
        case .prepend(let scalars):
            if text.isEmpty { return text }
            try SearchBudget.check(scalars.count + text.count, from: text.count)
            return scalars + text
        case .replace(let wanted, let replacement):
            let matches = try wanted.matches(in: text[...], &budget)
            if matches.isEmpty { return text }
            try SearchBudget.check(matches.count * replacement.count, from: text.count)
            var result: [UInt32] = []
            result.reserveCapacity(text.count)
            var at = 0
            for match in matches {
                result.append(contentsOf: text[at..<match.lowerBound])
                result.append(contentsOf: replacement)
                at = match.upperBound
            }
            result.append(contentsOf: text[at...])
            return result
        case .strip(let left, let right):
            var kept = text[...]
            if left { kept = kept.drop(while: ScalarClasses.whitespace.contains) }
            if right {
                while let last = kept.last, ScalarClasses.whitespace.contains(last) {
                    kept.removeLast()
                }
            }
            return Array(kept)
        }
    }
}

/// A step of a pre-tokenizer: pieces of text to smaller pieces.
enum CuttingStep: Sendable {
    /// What becomes of what was looked for.
    enum Behavior: String, Sendable {
        case removed = "Removed"
        case isolated = "Isolated"
        case withPrevious = "MergedWithPrevious"
        case withNext = "MergedWithNext"
        case contiguous = "Contiguous"
    }

    /// When a space is put before a piece.
    enum Prefix: String, Sendable {
        case always, first, never
    }

    case split(Wanted, Behavior, inverted: Bool)
    /// A space before a piece that does not begin with one.
    case spaceBefore
    /// Bytes written as characters, each for one.
    case bytes
    case spaces(UInt32, Prefix, splits: Bool)
    case digits(individual: Bool)
    case punctuation(Behavior)
}

/// Pieces of text on their way to words.
struct Pieces {
    /// A piece, and whether it begins where the text does.
    typealias Piece = (text: ArraySlice<UInt32>, isFirst: Bool)

    private(set) var pieces: [Piece]
    /// Scalars of the text at the beginning.
    private let original: Int

    init(_ text: ArraySlice<UInt32>, isFirst: Bool) {
        pieces = text.isEmpty ? [] : [(text, isFirst)]
        original = text.count
    }

    mutating func apply(
        _ step: CuttingStep,
        _ budget: inout SearchBudget
    ) throws(Pattern.Failure) {
        switch step {
        case .split(let wanted, let behavior, let inverted):
            try cut(behavior, &budget) { text, budget throws(Pattern.Failure) in
                let found = try wanted.matches(in: text, &budget)
                return inverted ? Self.between(found, in: text) : found
            }
        case .spaceBefore:
            pieces = pieces.map { piece in
                piece.text.first == 0x20 ? piece : (([0x20] + piece.text)[...], piece.isFirst)
            }
        case .bytes:
            pieces = pieces.map { (ByteAlphabet.written($0.text)[...], $0.isFirst) }
        case .spaces(let replacement, let prefix, let splits):
            pieces = pieces.map { piece in
                var text = piece.text.map { $0 == 0x20 ? replacement : $0 }
                let adds = prefix == .always || (prefix == .first && piece.isFirst)
                if adds, text.first != replacement { text.insert(replacement, at: 0) }
                return (text[...], piece.isFirst)
            }
            if splits {
                try cut(.withNext, &budget) { text, budget throws(Pattern.Failure) in
                    try Wanted.literal([replacement]).matches(in: text, &budget)
                }
            }
        case .digits(let individual):
            try cut(individual ? .isolated : .contiguous, &budget) {
                text,
                _ throws(Pattern.Failure) in
                Self.each(text) { ScalarClasses.number.contains($0) }
            }
        case .punctuation(let behavior):
            try cut(behavior, &budget) { text, _ throws(Pattern.Failure) in
                Self.each(text) { ScalarClasses.punctuation.contains($0) }
            }
        }
        try SearchBudget.check(pieces.reduce(0) { $0 + $1.text.count }, from: original)
    }

    private static func each(
        _ text: ArraySlice<UInt32>,
        _ wanted: (UInt32) -> Bool
    ) -> [Range<Int>] {
        text.indices.filter { wanted(text[$0]) }.map { $0..<($0 + 1) }
    }

    /// What lies between matches; empty where two of them touch, left out.
    private static func between(_ found: [Range<Int>], in text: ArraySlice<UInt32>) -> [Range<Int>]
    {
        var gaps: [Range<Int>] = []
        var at = text.startIndex
        for match in found {
            if match.lowerBound > at { gaps.append(at..<match.lowerBound) }
            at = match.upperBound
        }
        if at < text.endIndex { gaps.append(at..<text.endIndex) }
        return gaps
    }

    private mutating func cut(
        _ behavior: CuttingStep.Behavior,
        _ budget: inout SearchBudget,
        _ find: (ArraySlice<UInt32>, inout SearchBudget) throws(Pattern.Failure) -> [Range<Int>]
    ) throws(Pattern.Failure) {
        var result: [Piece] = []
        result.reserveCapacity(pieces.count)
        for piece in pieces {
            let found = try find(piece.text, &budget)
            for range in Self.ranges(found, behavior, in: piece.text) where !range.isEmpty {
                let first = piece.isFirst && range.lowerBound == piece.text.startIndex
                result.append((piece.text[range], first))
            }
        }
        pieces = result
    }

    /// The ranges that a text is cut into.
    private static func ranges(
        _ found: [Range<Int>],
        _ behavior: CuttingStep.Behavior,
        in text: ArraySlice<UInt32>
    ) -> [Range<Int>] {
        var result: [Range<Int>] = []
        var at = text.startIndex
        switch behavior {
        case .removed:
            return between(found, in: text)
        case .isolated:
            for match in found {
                if match.lowerBound > at { result.append(at..<match.lowerBound) }
                result.append(match)
                at = match.upperBound
            }
            result.append(at..<text.endIndex)
        case .withPrevious:
            for match in found {
                // A second match in a row has nothing before it to join.
                result.append(at..<match.upperBound)
                at = match.upperBound
            }
            result.append(at..<text.endIndex)
        case .withNext:
            for match in found {
                result.append(at..<match.lowerBound)
                at = match.lowerBound
            }
            result.append(at..<text.endIndex)
        case .contiguous:
            var joined: [Range<Int>] = []
            for match in found {
                if let last = joined.last, last.upperBound == match.lowerBound {
                    joined[joined.count - 1] = last.lowerBound..<match.upperBound
                } else {
                    joined.append(match)
                }
            }
            return ranges(joined, .isolated, in: text)
        }
        return result
    }
}

extension ScalarClasses {
    static let number = category("N") ?? .none
}

/// The characters that stand for bytes: the printable ones of Latin-1 for themselves, and those from
/// U+0100 on for the others, in order.
enum ByteAlphabet {
    static let characters: [UInt32] = {
        var next: UInt32 = 0x100
        return (0..<256).map { (byte: UInt32) in
            switch byte {
            case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: return byte
            default:
                defer { next += 1 }
                return next
            }
        }
    }()

    static let bytes: [UInt32: UInt8] = Dictionary(
        uniqueKeysWithValues: characters.enumerated().map { ($0.element, UInt8($0.offset)) }
    )

    static func written(_ text: ArraySlice<UInt32>) -> [UInt32] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count + 8)
        for scalar in text { UTF8.append(scalar, to: &bytes) }
        return bytes.map { characters[Int($0)] }
    }
}
