/// A natural number of any size: products of dimensions in files that lie about them.
struct Natural: Sendable, Hashable {
    /// Base 2^32, the lowest digit first, no zeros at the end.
    private var digits: [UInt32]

    init(_ value: UInt64) {
        digits = [UInt32(truncatingIfNeeded: value), UInt32(truncatingIfNeeded: value >> 32)]
        trim()
    }

    /// The product of these numbers.
    init(product factors: some Sequence<UInt64>) {
        self.init(1)
        for factor in factors {
            multiply(by: factor)
        }
    }

    /// The number, where it is one of Swift's.
    var int: Int? {
        if digits.count > 2 {
            return nil
        }
        let value = digits.reversed().reduce(UInt64(0)) { $0 << 32 | UInt64($1) }
        return Int(exactly: value)
    }

    /// Multiplies by one factor.
    mutating func multiply(by factor: UInt64) {
        let low = scaled(by: UInt32(truncatingIfNeeded: factor))
        let high = [0] + scaled(by: UInt32(truncatingIfNeeded: factor >> 32))
        var carry: UInt64 = 0
        digits = (0..<(max(low.count, high.count) + 1)).map { index in
            let sum =
                carry + UInt64(index < low.count ? low[index] : 0)
                + UInt64(index < high.count ? high[index] : 0)
            carry = sum >> 32
            return UInt32(truncatingIfNeeded: sum)
        }
        trim()
    }

    /// Divides by a number that is not 0; returns the remainder.
    @discardableResult
    mutating func divide(by divisor: UInt32) -> UInt32 {
        var rest: UInt64 = 0
        for index in digits.indices.reversed() {
            let value = rest << 32 | UInt64(digits[index])
            digits[index] = UInt32(truncatingIfNeeded: value / UInt64(divisor))
            rest = value % UInt64(divisor)
        }
        trim()
        return UInt32(rest)
    }

    private func scaled(by factor: UInt32) -> [UInt32] {
        var carry: UInt64 = 0
        var found = digits.map { digit in
            let product = UInt64(digit) * UInt64(factor) + carry
            carry = product >> 32
            return UInt32(truncatingIfNeeded: product)
        }
        found.append(UInt32(carry))
        return found
    }

    private mutating func trim() {
        while digits.last == 0 {
            digits.removeLast()
        }
    }
}

extension Natural: CustomStringConvertible {
    /// In base 10.
    var description: String {
        var rest = self
        var groups: [String] = []
        repeat {
            let group = String(rest.divide(by: 1_000_000_000))
            groups.append(String(repeating: "0", count: 9 - group.utf8.count) + group)
        } while !rest.digits.isEmpty
        let text = groups.reversed().joined()
        let stripped = text.drop { $0 == "0" }
        return stripped.isEmpty ? "0" : String(stripped)
    }
}
