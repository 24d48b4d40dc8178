/// A value of a JSON text.
///
/// Swift's `String` calls two texts equal that Unicode calls equivalent, and so do dictionaries
/// whose keys are strings: a vocabulary has both spellings of `é` as tokens of their own. Members
/// are therefore a list, in the order of the text, and keys are compared by their bytes.
enum JSONText: Sendable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSONText])
    case object([(key: String, value: JSONText)])

    /// What a text must not be: why, and at which byte.
    struct Failure: Error, Equatable {
        let reason: String
        let offset: Int
    }

    static let deepest = 128

    /// - Throws: the text is no JSON, or nests deeper than `deepest`.
    init(parsing bytes: UnsafeRawBufferPointer) throws(Failure) {
        var reader = JSONReader(bytes)
        self = try reader.whole()
    }

    init(parsing text: String) throws(Failure) {
        var copy = text
        let result = copy.withUTF8 { bytes in
            Result { () throws(Failure) in try JSONText(parsing: UnsafeRawBufferPointer(bytes)) }
        }
        self = try result.get()
    }

    /// A member of an object; the last of that name, as other readers have it. Nil where there is none.
    subscript(key: String) -> JSONText? {
        guard case .object(let members) = self else { return nil }
        return members.last { $0.key.utf8.elementsEqual(key.utf8) }?.value
    }

    var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    var bool: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }

    var double: Double? {
        if case .number(let value) = self { value } else { nil }
    }

    /// A number without a fraction.
    var int: Int? { double.flatMap { Int(exactly: $0) } }

    var array: [JSONText]? {
        if case .array(let items) = self { items } else { nil }
    }

    var members: [(key: String, value: JSONText)]? {
        if case .object(let members) = self { members } else { nil }
    }

    var isNull: Bool {
        if case .null = self { true } else { false }
    }
}

private struct JSONReader {
    private let bytes: UnsafeRawBufferPointer
    private var at = 0
    private var depth = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func whole() throws(JSONText.Failure) -> JSONText {
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { at = 3 }
        let value = try value()
        space()
        if at < bytes.count { throw wrong("something follows the end") }
        return value
    }

    private func wrong(_ reason: String) -> JSONText.Failure {
        JSONText.Failure(reason: reason, offset: at)
    }

    @inline(__always)
    private mutating func space() {
        while at < bytes.count {
            switch bytes[at] {
            case 0x20, 0x0A, 0x0D, 0x09: at += 1
            default: return
            }
        }
    }

    @inline(__always)
    private mutating func take(_ byte: UInt8) -> Bool {
        if at < bytes.count, bytes[at] == byte {
            at += 1
            return true
        }
        return false
    }

    private mutating func value() throws(JSONText.Failure) -> JSONText {
        space()
        guard at < bytes.count else { throw wrong("the text ends within a value") }
        switch bytes[at] {
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "{"): return try object()
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case UInt8(ascii: "N"): return try word("NaN", .number(.nan))
        default: return try number()
        }
    }

    private mutating func word(_ text: StaticString, _ value: JSONText) throws(JSONText.Failure)
        -> JSONText
    {
        for index in 0..<text.utf8CodeUnitCount where !take(text.utf8Start[index]) {
            throw wrong("not a value")
        }
        return value
    }

    private mutating func deeper() throws(JSONText.Failure) {
        depth += 1
        if depth > JSONText.deepest { throw wrong("nested deeper than \(JSONText.deepest)") }
        at += 1
        space()
    }

    private mutating func array() throws(JSONText.Failure) -> JSONText {
        try deeper()
        var items: [JSONText] = []
        if !take(UInt8(ascii: "]")) {
            repeat {
                items.append(try value())
                space()
            } while take(UInt8(ascii: ","))
            if !take(UInt8(ascii: "]")) { throw wrong("a list is not closed") }
        }
        depth -= 1
        return .array(items)
    }

    private mutating func object() throws(JSONText.Failure) -> JSONText {
        try deeper()
        var members: [(key: String, value: JSONText)] = []
        if !take(UInt8(ascii: "}")) {
            repeat {
                space()
                guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else {
                    throw wrong("a member without a name")
                }
                let key = try string()
                space()
                if !take(UInt8(ascii: ":")) { throw wrong("a name without a value") }
                members.append((key, try value()))
                space()
            } while take(UInt8(ascii: ","))
            if !take(UInt8(ascii: "}")) { throw wrong("an object is not closed") }
        }
        depth -= 1
        return .object(members)
    }

    private mutating func number() throws(JSONText.Failure) -> JSONText {
        let start = at
        while at < bytes.count {
            switch bytes[at] {
            case 0x30...0x39, UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."),
                UInt8(ascii: "e"),
                UInt8(ascii: "E"):
                at += 1
            default:
                return try finished(number: start)
            }
        }
        return try finished(number: start)
    }

    private mutating func finished(number start: Int) throws(JSONText.Failure) -> JSONText {
        // Most are small integers.
        if at - start <= 15, at > start, bytes[start..<at].allSatisfy({ $0 >= 0x30 && $0 <= 0x39 })
        {
            var value = 0
            for byte in bytes[start..<at] { value = value * 10 + Int(byte - 0x30) }
            return .number(Double(value))
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        guard let value = Double(text), text.first != "+", text.first != "." else {
            at = start
            throw wrong("not a value")
        }
        return .number(value)
    }

    private mutating func string() throws(JSONText.Failure) -> String {
        at += 1
        let start = at
        while at < bytes.count {
            let byte = bytes[at]
            if byte == UInt8(ascii: "\"") {
                guard let text = utf8(bytes[start..<at]) else {
                    throw wrong("text that is no UTF-8")
                }
                at += 1
                return text
            }
            if byte == UInt8(ascii: "\\") { return try escaped(from: start) }
            if byte < 0x20 { throw wrong("a control character in a string") }
            at += 1
        }
        throw wrong("a string is not closed")
    }

    private func utf8(_ part: some Collection<UInt8>) -> String? {
        String(validating: part, as: UTF8.self)
    }

    /// The rest of a string that has escapes.
    private mutating func escaped(from start: Int) throws(JSONText.Failure) -> String {
        var text = [UInt8](bytes[start..<at])
        while at < bytes.count {
            let byte = bytes[at]
            at += 1
            if byte == UInt8(ascii: "\"") {
                guard let result = utf8(text) else { throw wrong("text that is no UTF-8") }
                return result
            }
            if byte < 0x20 { throw wrong("a control character in a string") }
            guard byte == UInt8(ascii: "\\") else {
                text.append(byte)
                continue
            }
            guard at < bytes.count else { break }
            let kind = bytes[at]
            at += 1
            switch kind {
            case UInt8(ascii: "n"): text.append(0x0A)
            case UInt8(ascii: "t"): text.append(0x09)
            case UInt8(ascii: "r"): text.append(0x0D)
            case UInt8(ascii: "b"): text.append(0x08)
            case UInt8(ascii: "f"): text.append(0x0C)
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(kind)
            case UInt8(ascii: "u"): text.append(contentsOf: String(try scalar()).utf8)
            default: throw wrong("an unknown escape")
            }
        }
        throw wrong("a string is not closed")
    }

    /// The scalar of a `\u` escape or of a pair of them; half a pair becomes U+FFFD.
    private mutating func scalar() throws(JSONText.Failure) -> Unicode.Scalar {
        let first = try unit()
        if first & 0xFC00 == 0xD800, at + 1 < bytes.count, bytes[at] == UInt8(ascii: "\\"),
            bytes[at + 1] == UInt8(ascii: "u")
        {
            let back = at
            at += 2
            let second = try unit()
            if second & 0xFC00 == 0xDC00 {
                let code = 0x10000 + (first & 0x3FF) << 10 + (second & 0x3FF)
                return Unicode.Scalar(code) ?? "\u{FFFD}"
            }
            at = back
        }
        return Unicode.Scalar(first) ?? "\u{FFFD}"
    }

    private mutating func unit() throws(JSONText.Failure) -> UInt32 {
        guard at + 4 <= bytes.count else { throw wrong("an escape is cut off") }
        var value: UInt32 = 0
        for byte in bytes[at..<(at + 4)] {
            guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
                throw wrong("an unknown escape")
            }
            value = value << 4 | UInt32(digit)
        }
        at += 4
        return value
    }
}
