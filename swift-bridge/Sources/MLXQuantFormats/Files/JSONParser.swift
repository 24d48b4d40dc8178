/// Reads JSON of bounded depth: each name once, text that is text, no NaN.
struct JSONParser {
    /// What is wrong, and where.
    struct Problem: Error {
        enum Field {
            /// The grammar: the error's field is the line.
            case syntax
            /// A part with a name of its own: `number`, `text`, `key '…'`, `content`.
            case named(String)
        }

        let field: Field
        let reason: String
        /// From the first byte; nil where no single place is to blame.
        let offset: Int?
    }

    /// How much is allowed.
    struct Rules {
        /// How deep objects and lists may nest.
        var depth = 64
        /// Whether names may stand twice, and NaN and infinities as words.
        var loose = false
    }

    /// Digits of a number at most.
    private static let digits = 4300

    private let bytes: UnsafeRawBufferPointer
    private let rules: Rules
    private(set) var at = 0

    /// A parser of these bytes, which must outlive it.
    init(_ bytes: UnsafeRawBufferPointer, rules: Rules = Rules()) {
        self.bytes = bytes
        self.rules = rules
    }

    /// The one value of the bytes.
    mutating func whole() throws(Problem) -> JSON {
        skipSpace()
        let value = try value(depth: 0)
        skipSpace()
        guard at == bytes.count else { throw syntax("Extra data") }
        return value
    }

    /// The members of one object, names that stand twice included.
    mutating func members() throws(Problem) -> [JSONObject.Member] {
        skipSpace()
        guard peek() == UInt8(ascii: "{") else { throw syntax("an object expected") }
        at += 1
        return try members(depth: 1)
    }

    /// The value at the current byte.
    private mutating func value(depth: Int) throws(Problem) -> JSON {
        switch peek() {
        case UInt8(ascii: "\""):
            at += 1
            return .string(try string())
        case UInt8(ascii: "{"):
            at += 1
            try check(depth: depth + 1)
            return .object(try object(depth: depth + 1))
        case UInt8(ascii: "["):
            at += 1
            try check(depth: depth + 1)
            return .array(try array(depth: depth + 1))
        case UInt8(ascii: "t") where word("true"): return .bool(true)
        case UInt8(ascii: "f") where word("false"): return .bool(false)
        case UInt8(ascii: "n") where word("null"): return .null
        default:
            if let number = try number() {
                return .number(number)
            }
        }
        for name in ["NaN", "Infinity", "-Infinity"] where word(name) {
            guard rules.loose else {
                throw Problem(field: .named("number"), reason: "\(name) is not JSON", offset: nil)
            }
            return .number(JSONNumber(name))
        }
        throw syntax("Expecting value")
    }

    private mutating func object(depth: Int) throws(Problem) -> JSONObject {
        let object = JSONObject(try members(depth: depth))
        if let repeated = object.repeated, !rules.loose {
            let field = "key \(quote(repeated.name))"
            let reason = "stands twice in one object"
            throw Problem(field: .named(field), reason: reason, offset: nil)
        }
        return object
    }

    /// Members up to the closing brace; the opening one is behind us.
    private mutating func members(depth: Int) throws(Problem) -> [JSONObject.Member] {
        var members: [JSONObject.Member] = []
        skipSpace()
        if take(UInt8(ascii: "}")) {
            return members
        }
        while true {
            guard take(UInt8(ascii: "\"")) else {
                throw syntax("Expecting property name enclosed in double quotes")
            }
            let name = try string()
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw syntax("Expecting ':' delimiter") }
            skipSpace()
            members.append(JSONObject.Member(name: name, value: try value(depth: depth)))
            skipSpace()
            if take(UInt8(ascii: "}")) {
                return members
            }
            guard take(UInt8(ascii: ",")) else { throw syntax("Expecting ',' delimiter") }
            skipSpace()
        }
    }

    private mutating func array(depth: Int) throws(Problem) -> [JSON] {
        var items: [JSON] = []
        skipSpace()
        if take(UInt8(ascii: "]")) {
            return items
        }
        while true {
            items.append(try value(depth: depth))
            skipSpace()
            if take(UInt8(ascii: "]")) {
                return items
            }
            guard take(UInt8(ascii: ",")) else { throw syntax("Expecting ',' delimiter") }
            skipSpace()
        }
    }

    /// A number, as it is written; nil and nothing taken where there is none.
    private mutating func number() throws(Problem) -> JSONNumber? {
        let start = at
        _ = take(UInt8(ascii: "-"))
        let whole = at
        skipDigits()
        let count = at - whole
        guard count > 0 else {
            at = start
            return nil
        }
        if count > 1 && bytes[whole] == UInt8(ascii: "0") {
            at = whole + 1  // what follows is extra
        }
        let integer = at
        if take(UInt8(ascii: ".")) {
            let fraction = at
            skipDigits()
            if at == fraction {
                at = integer
            }
        }
        let mantissa = at
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            _ = take(UInt8(ascii: "+")) || take(UInt8(ascii: "-"))
            let exponent = at
            skipDigits()
            if at == exponent {
                at = mantissa
            }
        }
        guard at - start <= Self.digits else {
            let reason = "has more digits than can be read"
            throw Problem(field: .named("number"), reason: reason, offset: nil)
        }
        return JSONNumber(String(decoding: bytes[start..<at], as: UTF8.self))
    }

    /// A text whose opening quote is behind us.
    private mutating func string() throws(Problem) -> String {
        let start = at
        var ascii = true
        while true {
            guard at < bytes.count else {
                throw Problem(
                    field: .syntax,
                    reason: "Unterminated string",
                    offset: start - 1
                )
            }
            let byte = bytes[at]
            if byte == UInt8(ascii: "\"") {
                break
            }
            if byte == UInt8(ascii: "\\") {
                return try escapedString(from: start)
            }
            guard byte >= 0x20 else { throw syntax("Invalid control character") }
            ascii = ascii && byte < 0x80
            at += 1
        }
        let raw = UnsafeRawBufferPointer(rebasing: bytes[start..<at])
        if !ascii, let bad = invalidUTF8(in: raw) {
            let reason = "not UTF-8"
            throw Problem(field: .named("encoding"), reason: reason, offset: start + bad)
        }
        at += 1
        return String(decoding: raw, as: UTF8.self)
    }

    /// A text with escapes, read anew from its start.
    private mutating func escapedString(from start: Int) throws(Problem) -> String {
        at = start
        var text: [UInt8] = []
        while true {
            guard at < bytes.count else {
                throw Problem(field: .syntax, reason: "Unterminated string", offset: start - 1)
            }
            let byte = bytes[at]
            at += 1
            switch byte {
            case UInt8(ascii: "\""):
                let bad = text.withUnsafeBytes { invalidUTF8(in: $0) }
                guard bad == nil else {
                    throw Problem(field: .named("encoding"), reason: "not UTF-8", offset: start)
                }
                return String(decoding: text, as: UTF8.self)
            case UInt8(ascii: "\\"):
                try appendEscape(to: &text)
            case 0..<0x20:
                at -= 1
                throw syntax("Invalid control character")
            default:
                text.append(byte)
            }
        }
    }

    /// What stands behind a backslash.
    private mutating func appendEscape(to text: inout [UInt8]) throws(Problem) {
        guard at < bytes.count else { throw syntax("Unterminated string") }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "u"): try appendUnicode(to: &text)
        default:
            at -= 2
            throw syntax("Invalid \\escape")
        }
    }

    /// One or, for a pair of surrogates, two escapes of four digits.
    private mutating func appendUnicode(to text: inout [UInt8]) throws(Problem) {
        let lone = Problem(
            field: .named("text"),
            reason: "a lone surrogate (\\ud800 to \\udfff)",
            offset: nil
        )
        var value = try fourDigits()
        if value & 0xFC00 == 0xDC00 {
            throw lone
        }
        if value & 0xFC00 == 0xD800 {
            guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw lone }
            let low = try fourDigits()
            guard low & 0xFC00 == 0xDC00 else { throw lone }
            value = 0x10000 + ((value & 0x3FF) << 10 | (low & 0x3FF))
        }
        if let scalar = Unicode.Scalar(value) {
            text.append(contentsOf: String(Character(scalar)).utf8)
        }
    }

    private mutating func fourDigits() throws(Problem) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            let digit = at < bytes.count ? hexDigit(bytes[at]) : nil
            guard let digit else { throw syntax("Invalid \\uXXXX escape") }
            value = value << 4 | digit
            at += 1
        }
        return value
    }

    private func check(depth: Int) throws(Problem) {
        if depth > rules.depth {
            let reason = "nested deeper than \(rules.depth), or brackets unpaired"
            throw Problem(field: .named("content"), reason: reason, offset: nil)
        }
    }

    private func syntax(_ reason: String) -> Problem {
        Problem(field: .syntax, reason: reason, offset: at)
    }

    private func peek() -> UInt8? {
        at < bytes.count ? bytes[at] : nil
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard at < bytes.count, bytes[at] == byte else { return false }
        at += 1
        return true
    }

    private mutating func word(_ text: String) -> Bool {
        let found = bytes[at...].starts(with: text.utf8)
        at += found ? text.utf8.count : 0
        return found
    }

    private mutating func skipDigits() {
        while at < bytes.count, bytes[at] >= UInt8(ascii: "0"), bytes[at] <= UInt8(ascii: "9") {
            at += 1
        }
    }

    private mutating func skipSpace() {
        while at < bytes.count, isJSONSpace(bytes[at]) {
            at += 1
        }
    }
}

/// Blank, tab, line feed or carriage return.
func isJSONSpace(_ byte: UInt8) -> Bool {
    byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D
}

private func hexDigit(_ byte: UInt8) -> UInt32? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(byte - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt32(byte - UInt8(ascii: "a") + 10)
    case UInt8(ascii: "A")...UInt8(ascii: "F"): UInt32(byte - UInt8(ascii: "A") + 10)
    default: nil
    }
}

/// Where the first byte stands that is no UTF-8; nil where all are.
func invalidUTF8(in bytes: UnsafeRawBufferPointer) -> Int? {
    var at = 0
    while at < bytes.count {
        let first = bytes[at]
        let length: Int
        let least: UInt32
        switch first {
        case 0..<0x80: at += 1; continue
        case 0xC2..<0xE0: (length, least) = (2, 0x80)
        case 0xE0..<0xF0: (length, least) = (3, 0x800)
        case 0xF0..<0xF5: (length, least) = (4, 0x10000)
        default: return at
        }
        guard at + length <= bytes.count else { return at }
        var value = UInt32(first) & (0x7F >> UInt32(length))
        for place in 1..<length {
            let byte = bytes[at + place]
            guard byte & 0xC0 == 0x80 else { return at }
            value = value << 6 | UInt32(byte & 0x3F)
        }
        guard value >= least, Unicode.Scalar(value) != nil else { return at }
        at += length
    }
    return nil
}
