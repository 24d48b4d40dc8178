/// What an expression says.
indirect enum PatternNode {
    case set(ScalarSet)
    case sequence([PatternNode])
    case choice([PatternNode])
    case repeated(PatternNode, least: Int, most: Int, Repetition)
    case look(PatternNode, negative: Bool, behind: Bool)
    case atomic(PatternNode)
    case anchor(Pattern.Instruction)

    enum Repetition { case greedy, lazy, possessive }

    /// The most that a width is computed from: counted repetitions of one another multiply.
    private static let widest = 1 << 20

    /// How many scalars it takes, where that is always the same number, and no absurd one.
    var width: Int? {
        switch self {
        case .set: return 1
        case .sequence(let parts):
            var sum = 0
            for part in parts {
                guard let width = part.width, sum <= Self.widest else { return nil }
                sum += width
            }
            return sum
        case .choice(let parts):
            let widths = Set(parts.map(\.width))
            return widths.count == 1 ? widths.first ?? nil : nil
        case .repeated(let part, let least, let most, _):
            guard least == most, let width = part.width else { return nil }
            return width <= Self.widest ? width * least : nil
        case .look, .anchor: return 0
        case .atomic(let part): return part.width
        }
    }
}

/// Reads an expression.
struct PatternParser {
    private let text: [UInt32]
    private var at = 0
    private var depth = 0
    private var foldsCase = false

    /// Of all expressions of a file, in scalars; five times what the longest ones in use have.
    static let longest = 1 << 13
    static let deepest = 64
    /// Repetitions of a repetition: `a{2}{3}+`.
    static let mostStacked = 4
    static let mostRepeats = 1000

    init(_ expression: String) { text = expression.unicodeScalars.map(\.value) }

    mutating func parse() throws(Pattern.Failure) -> PatternNode {
        if text.count > Self.longest { throw wrong("more than \(Self.longest) characters") }
        let tree = try choice()
        if at < text.count { throw wrong("a parenthesis closes nothing") }
        return tree
    }

    private func wrong(_ reason: String) -> Pattern.Failure { .syntax(reason, at: at) }

    private var peek: Character? {
        at < text.count ? Unicode.Scalar(text[at]).map(Character.init) : nil
    }

    private mutating func skip(_ literal: String) -> Bool {
        let wanted = literal.unicodeScalars.map(\.value)
        guard at + wanted.count <= text.count, text[at..<(at + wanted.count)].elementsEqual(wanted)
        else { return false }
        at += wanted.count
        return true
    }

    private mutating func choice() throws(Pattern.Failure) -> PatternNode {
        depth += 1
        defer { depth -= 1 }
        if depth > Self.deepest { throw wrong("more than \(Self.deepest) groups in one another") }
        var parts = [try sequence()]
        while skip("|") { parts.append(try sequence()) }
        return parts.count == 1 ? parts[0] : .choice(parts)
    }

    private mutating func sequence() throws(Pattern.Failure) -> PatternNode {
        var parts: [PatternNode] = []
        while let next = peek, next != "|", next != ")" {
            parts.append(try repetition(of: try atom()))
        }
        return .sequence(parts)
    }

    private mutating func repetition(of atom: PatternNode) throws(Pattern.Failure) -> PatternNode {
        var node = atom
        for _ in 0...Self.mostStacked {
            let least: Int
            let most: Int
            var interval = false
            if skip("*") {
                (least, most) = (0, .max)
            } else if skip("+") {
                (least, most) = (1, .max)
            } else if skip("?") {
                (least, most) = (0, 1)
            } else if let counts = try counts() {
                (least, most) = counts
                interval = true
            } else {
                return node
            }
            var kind = PatternNode.Repetition.greedy
            if skip("?") {
                kind = .lazy
            } else if !interval, skip("+") {
                // Oniguruma reads `{1,3}+` as a repetition of a repetition.
                kind = .possessive
            }
            node = .repeated(node, least: least, most: most, kind)
        }
        throw wrong("more than \(Self.mostStacked) repetitions of one another")
    }

    /// `{n}`, `{n,}`, `{,m}`, `{n,m}`; a brace that begins no such thing is a brace.
    private mutating func counts() throws(Pattern.Failure) -> (Int, Int)? {
        let start = at
        guard skip("{") else { return nil }
        let least = number()
        var most = least
        if skip(",") { most = number() ?? .max }
        guard skip("}"), least != nil || most != .max, let last = most else {
            at = start
            return nil
        }
        let first = least ?? 0
        if first > Self.mostRepeats || (last != .max && last > Self.mostRepeats) || first > last {
            throw wrong("a repetition of \(first) to \(last); the limit is \(Self.mostRepeats)")
        }
        return (first, last)
    }

    private mutating func number() -> Int? {
        var value: Int?
        while at < text.count, (0x30...0x39).contains(text[at]), (value ?? 0) < 1_000_000 {
            value = (value ?? 0) * 10 + Int(text[at] - 0x30)
            at += 1
        }
        return value
    }

    private mutating func atom() throws(Pattern.Failure) -> PatternNode {
        if skip("(") { return try group() }
        if skip("[") { return .set(try setBody()) }
        if skip(".") { return .set(ScalarSet(0xA).inverted) }
        if skip("^") { return .anchor(.lineStart) }
        if skip("$") { return .anchor(.lineEnd) }
        if skip("\\") {
            if skip("A") { return .anchor(.textStart) }
            if skip("z") { return .anchor(.textEnd) }
            return .set(folded(try escape()))
        }
        if let next = peek, "*+?".contains(next) { throw wrong("nothing to repeat") }
        let scalar = text[at]
        at += 1
        return .set(folded(ScalarSet(scalar)))
    }

    private mutating func group() throws(Pattern.Failure) -> PatternNode {
        let outside = foldsCase
        defer { foldsCase = outside }
        var wrap: (PatternNode) -> PatternNode = { $0 }
        if skip("?:") {
        } else if skip("?i:") {
            foldsCase = true
        } else if skip("?-i:") {
            foldsCase = false
        } else if skip("?i)") {
            // To the end of the group that it stands in, alternatives included.
            foldsCase = true
            return try choice()
        } else if skip("?>") {
            wrap = { .atomic($0) }
        } else if skip("?=") {
            wrap = { .look($0, negative: false, behind: false) }
        } else if skip("?!") {
            wrap = { .look($0, negative: true, behind: false) }
        } else if skip("?<=") {
            wrap = { .look($0, negative: false, behind: true) }
        } else if skip("?<!") {
            wrap = { .look($0, negative: true, behind: true) }
        } else if peek == "?" {
            throw wrong("an unknown kind of group")
        }
        let inside = try choice()
        if !skip(")") { throw wrong("a parenthesis is not closed") }
        return wrap(inside)
    }

    /// The inside of a class, up to its bracket.
    private mutating func setBody() throws(Pattern.Failure) -> ScalarSet {
        depth += 1
        defer { depth -= 1 }
        if depth > Self.deepest { throw wrong("more than \(Self.deepest) classes in one another") }
        let negative = skip("^")
        var whole: ScalarSet?
        var part = ScalarSet.none
        var first = true
        while true {
            guard at < text.count else { throw wrong("a bracket is not closed") }
            if !first, skip("]") { break }
            if skip("&&") {
                whole = whole.map { $0.intersection(part) } ?? part
                part = .none
                first = false
                continue
            }
            if skip("[") {
                // as a class within the class it would be five letters
                if peek == ":" { throw wrong("a class such as [:alpha:] is not supported") }
                part = part.union(try setBody())
                first = false
                continue
            }
            first = false
            let item = try setItem()
            if at + 1 < text.count, peek == "-", text[at + 1] != 0x5D, let low = single(item) {
                let back = at
                at += 1
                if peek != "[", let high = single(try setItem()) {
                    if high < low { throw wrong("a range that runs backwards") }
                    part = part.union(folded(ScalarSet([low...high])))
                    continue
                }
                at = back
            }
            part = part.union(folded(item))
        }
        let result = whole.map { $0.intersection(part) } ?? part
        return negative ? result.inverted : result
    }

    private mutating func setItem() throws(Pattern.Failure) -> ScalarSet {
        if skip("\\") { return try escape() }
        guard at < text.count else { throw wrong("a bracket is not closed") }
        let scalar = text[at]
        at += 1
        return ScalarSet(scalar)
    }

    private func single(_ set: ScalarSet) -> UInt32? {
        set.ranges.count == 1 && set.ranges[0].count == 1 ? set.ranges[0].lowerBound : nil
    }

    /// What stands behind a backslash.
    private mutating func escape() throws(Pattern.Failure) -> ScalarSet {
        guard let next = peek else { throw wrong("a backslash at the end") }
        let scalar = text[at]
        at += 1
        switch next {
        case "n": return ScalarSet(0xA)
        case "r": return ScalarSet(0xD)
        case "t": return ScalarSet(0x9)
        case "f": return ScalarSet(0xC)
        case "v": return ScalarSet(0xB)
        case "a": return ScalarSet(0x7)
        case "e": return ScalarSet(0x1B)
        case "s": return ScalarClasses.whitespace
        case "S": return ScalarClasses.whitespace.inverted
        case "d": return ScalarClasses.digits
        case "D": return ScalarClasses.digits.inverted
        case "w": return ScalarClasses.word
        case "W": return ScalarClasses.word.inverted
        case "x", "u": return try hexadecimal(unicode: next == "u")
        case "p", "P": return try property(negative: next == "P")
        default:
            if next.isASCII, next.isLetter || next.isNumber {
                throw wrong("\\\(next) is not supported")
            }
            return ScalarSet(scalar)
        }
    }

    private mutating func hexadecimal(unicode: Bool) throws(Pattern.Failure) -> ScalarSet {
        let braces = !unicode && skip("{")
        let most = braces ? 8 : unicode ? 4 : 2
        var value: UInt32 = 0
        var count = 0
        while count < most, let digit = peek?.hexDigitValue {
            value = value << 4 | UInt32(digit)
            at += 1
            count += 1
        }
        if count == 0 || (braces && !skip("}")) || value > ScalarSet.last {
            throw wrong("not a character's number")
        }
        return ScalarSet(value)
    }

    private mutating func property(negative: Bool) throws(Pattern.Failure) -> ScalarSet {
        var name = ""
        if skip("{") {
            while let next = peek, next != "}", name.utf8.count < 32 {
                name.append(next)
                at += 1
            }
            if !skip("}") { throw wrong("a property's brace is not closed") }
        } else if let next = peek {
            name = String(next)
            at += 1
        }
        let opposite = name.hasPrefix("^")
        guard let set = ScalarClasses.category(opposite ? String(name.dropFirst()) : name) else {
            throw wrong("the property \(name) is not supported")
        }
        return negative != opposite ? set.inverted : set
    }

    /// With case left out of account, if that is asked for: for ASCII letters, and what folds to them.
    private func folded(_ set: ScalarSet) -> ScalarSet {
        guard foldsCase else { return set }
        var more: [ClosedRange<UInt32>] = []
        for upper: UInt32 in 0x41...0x5A {
            var same = [upper, upper + 0x20]
            if upper == 0x53 { same.append(0x17F) }  // ſ
            if upper == 0x4B { same.append(0x212A) }  // the Kelvin sign
            if same.contains(where: set.contains) { more += same.map { $0...$0 } }
        }
        return set.union(ScalarSet(more))
    }
}
