/// A set of Unicode scalars: ranges in order, and the ASCII part again as bits.
struct ScalarSet: Sendable, Equatable {
    /// Ranges that neither overlap nor touch, in order.
    private(set) var ranges: [ClosedRange<UInt32>]
    private var low: UInt64 = 0
    private var high: UInt64 = 0

    static let last: UInt32 = 0x10FFFF
    static let all = ScalarSet([0...last])
    static let none = ScalarSet([])

    /// The union of ranges in any order.
    init(_ unordered: [ClosedRange<UInt32>]) {
        var merged: [ClosedRange<UInt32>] = []
        for range in unordered.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            if let before = merged.last, range.lowerBound <= before.upperBound + 1 {
                merged[merged.count - 1] =
                    before.lowerBound...max(before.upperBound, range.upperBound)
            } else {
                merged.append(range)
            }
        }
        ranges = merged
        for range in merged where range.lowerBound < 128 {
            for code in range.lowerBound...min(range.upperBound, 127) {
                if code < 64 { low |= 1 << UInt64(code) } else { high |= 1 << UInt64(code - 64) }
            }
        }
    }

    init(_ scalar: UInt32) { self.init([scalar...scalar]) }

    @inline(__always)
    func contains(_ scalar: UInt32) -> Bool {
        if scalar < 64 { return low >> UInt64(scalar) & 1 == 1 }
        if scalar < 128 { return high >> UInt64(scalar - 64) & 1 == 1 }
        return search(scalar)
    }

    private func search(_ scalar: UInt32) -> Bool {
        ranges.withUnsafeBufferPointer { ranges in
            var first = 0
            var end = ranges.count
            while first < end {
                let middle = (first + end) / 2
                if ranges[middle].upperBound < scalar { first = middle + 1 } else { end = middle }
            }
            return first < ranges.count && ranges[first].lowerBound <= scalar
        }
    }

    var inverted: ScalarSet {
        var gaps: [ClosedRange<UInt32>] = []
        var next: UInt32 = 0
        for range in ranges {
            if range.lowerBound > next { gaps.append(next...(range.lowerBound - 1)) }
            next = range.upperBound + 1
        }
        if next <= Self.last { gaps.append(next...Self.last) }
        return ScalarSet(gaps)
    }

    func union(_ other: ScalarSet) -> ScalarSet { ScalarSet(ranges + other.ranges) }

    func intersection(_ other: ScalarSet) -> ScalarSet {
        inverted.union(other.inverted).inverted
    }
}

/// Classes of characters by their names in expressions.
enum ScalarClasses {
    /// Two-letter general categories in the order of their numbers in `UnicodeTables.categories`.
    static let names = [
        "Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
        "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co",
    ]

    /// `\p{name}`: a general category, or a group of them by its letter; nil where it is unknown.
    static func category(_ name: String) -> ScalarSet? {
        switch name {
        case "Any": return .all
        case "Alphabetic", "Alpha": return nil
        default: break
        }
        let wanted = names.indices.filter { index in
            names[index] == name || (name.utf8.count == 1 && names[index].hasPrefix(name))
        }
        if wanted.isEmpty { return nil }
        return runs(UnicodeTables.categories, shift: 5) { wanted.contains(Int($0)) }
    }

    static let whitespace = ScalarSet([
        0x9...0xD, 0x20...0x20, 0x85...0x85, 0xA0...0xA0, 0x1680...0x1680, 0x2000...0x200A,
        0x2028...0x2029, 0x202F...0x202F, 0x205F...0x205F, 0x3000...0x3000,
    ])

    static let word: ScalarSet = {
        let table = UnicodeTables.wordCharacters
        return ScalarSet(
            stride(from: 0, to: table.count, by: 2).map { table[$0]...table[$0 + 1] }
        )
    }()

    static let digits = category("Nd") ?? .none

    /// BERT's and the `Punctuation` step's idea of punctuation: ASCII's symbols, and category P.
    static let punctuation = (category("P") ?? .none).union(
        ScalarSet([0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E])
    )

    private static func runs(
        _ table: [UInt32],
        shift: UInt32,
        where wanted: (UInt32) -> Bool
    ) -> ScalarSet {
        let mask: UInt32 = (1 << shift) - 1
        var found: [ClosedRange<UInt32>] = []
        for (index, entry) in table.enumerated() where wanted(entry & mask) {
            let end = index + 1 < table.count ? table[index + 1] >> shift : ScalarSet.last + 1
            found.append(entry >> shift...(end - 1))
        }
        return ScalarSet(found)
    }
}
