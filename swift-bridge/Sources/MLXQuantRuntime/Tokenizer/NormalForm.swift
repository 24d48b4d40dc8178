/// Unicode's canonical normal forms, from the library's own tables.
enum NormalForm {
    /// Canonical decomposition, marks in their order.
    static func decomposed(_ text: [UInt32]) -> [UInt32] {
        var result: [UInt32] = []
        result.reserveCapacity(text.count)
        for scalar in text {
            if scalar < 0xC0 {
                result.append(scalar)
            } else if (0xAC00...0xD7A3).contains(scalar) {
                let index = scalar - 0xAC00
                result.append(0x1100 + index / 588)
                result.append(0x1161 + index % 588 / 28)
                if index % 28 > 0 { result.append(0x11A7 + index % 28) }
            } else if let entry = decompositions[scalar] {
                result.append(contentsOf: UnicodeTables.decompositions[entry])
            } else {
                result.append(scalar)
            }
        }
        order(&result)
        return result
    }

    /// Canonical composition.
    static func composed(_ text: [UInt32]) -> [UInt32] {
        // Nothing below U+0300 composes with what stands before it, or decomposes for good.
        if text.allSatisfy({ $0 < 0x300 }) { return text }
        var result = decomposed(text)
        var starter: Int?
        var lastClass: UInt32 = 0
        var end = 0
        for index in result.indices {
            let scalar = result[index]
            let ccc = combiningClass(scalar)
            if let at = starter, lastClass < ccc || (lastClass == 0 && end == at + 1),
                let joint = composition(result[at], scalar)
            {
                result[at] = joint
                continue
            }
            if ccc == 0 { starter = end }
            lastClass = ccc
            result[end] = scalar
            end += 1
        }
        result.removeLast(result.count - end)
        return result
    }

    /// Puts each run of marks in the order of their classes, stably.
    private static func order(_ text: inout [UInt32]) {
        var index = 0
        while index < text.count {
            guard text[index] >= 0x300, combiningClass(text[index]) > 0 else {
                index += 1
                continue
            }
            let start = index
            while index < text.count, combiningClass(text[index]) > 0 { index += 1 }
            if index - start > 1 {
                let run = text[start..<index].enumerated().sorted { one, other in
                    let (left, right) = (combiningClass(one.element), combiningClass(other.element))
                    return left == right ? one.offset < other.offset : left < right
                }
                text.replaceSubrange(start..<index, with: run.map(\.element))
            }
        }
    }

    private static func composition(_ first: UInt32, _ second: UInt32) -> UInt32? {
        if (0x1100...0x1112).contains(first), (0x1161...0x1175).contains(second) {
            return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
        }
        if (0xAC00...0xD7A3).contains(first), (first - 0xAC00) % 28 == 0,
            (0x11A8...0x11C2).contains(second)
        {
            return first + second - 0x11A7
        }
        return compositions[UInt64(first) << 32 | UInt64(second)]
    }

    static func combiningClass(_ scalar: UInt32) -> UInt32 {
        if scalar < 0x300 { return 0 }
        let table = UnicodeTables.combiningClasses
        var first = 0
        var end = table.count
        while end - first > 1 {
            let middle = (first + end) / 2
            if table[middle] >> 8 <= scalar { first = middle } else { end = middle }
        }
        return table[first] & 0xFF
    }

    private static let decompositions: [UInt32: Range<Int>] = {
        let table = UnicodeTables.decompositions
        var found: [UInt32: Range<Int>] = [:]
        var at = 0
        while at < table.count {
            let length = Int(table[at + 1])
            found[table[at]] = at + 2..<(at + 2 + length)
            at += 2 + length
        }
        return found
    }()

    private static let compositions: [UInt64: UInt32] = {
        let table = UnicodeTables.compositions
        var found: [UInt64: UInt32] = [:]
        for at in stride(from: 0, to: table.count, by: 3) {
            found[UInt64(table[at]) << 32 | UInt64(table[at + 1])] = table[at + 2]
        }
        return found
    }()
}
