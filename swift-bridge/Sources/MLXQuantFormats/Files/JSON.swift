/// A JSON value.
public enum JSON: Sendable, Hashable {
    /// `null`: nothing is said.
    case null
    /// `true` or `false`.
    case bool(Bool)
    /// A number, as it is written.
    case number(JSONNumber)
    /// A text.
    case string(String)
    /// A list.
    case array([JSON])
    /// Names and their values.
    case object(JSONObject)
}

/// A number as a JSON file writes it: `4`, `4.0` and `1e400` are three things.
public struct JSONNumber: Sendable, Hashable {
    /// The number's text.
    public let text: String

    init(_ text: String) {
        self.text = text
    }

    /// The value of a number without fraction and exponent, where Swift's `Int` holds it.
    public var int: Int? {
        Int(text)
    }

    /// The nearest `Double`; infinite beyond its range.
    public var double: Double {
        Double(text) ?? .nan
    }
}

/// The members of a JSON object in their order; no name stands twice.
///
/// Names are told apart by their bytes. Swift's `String` calls two texts equal that Unicode calls
/// equivalent, and a vocabulary has both spellings of `é` as tokens of their own.
public struct JSONObject: Sendable, Hashable {
    /// Names and values, in the order of the file.
    public let members: [Member]
    private let places: NamePlaces

    /// A name and its value.
    public struct Member: Sendable, Hashable {
        /// What the member is called.
        public let name: String
        /// What stands behind the name.
        public let value: JSON
    }

    init(_ members: [Member]) {
        self.members = members
        places = NamePlaces(members)
    }

    /// The first member whose name stood before; nil where no name stands twice.
    var repeated: Member? { places.repeated.map { members[$0] } }

    /// The value of a name; nil where there is none.
    public subscript(_ name: String) -> JSON? {
        places.place(of: name, in: members).map { members[$0].value }
    }

    /// Two objects are equal if they have the same members, in any order.
    public static func == (left: JSONObject, right: JSONObject) -> Bool {
        left.members.count == right.members.count
            && left.members.allSatisfy { right[$0.name] == $0.value }
    }

    /// As equality: whatever the order.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(members.reduce(0) { $0 ^ $1.hashValue })
    }
}

/// Where each name of an object stands among its members: of a name that stands twice, the last.
private struct NamePlaces: Sendable {
    /// Open addressing, -1 where a slot is free; empty for a few members, which are looked through.
    private var slots: [Int32] = []
    /// Of the first name that stood before.
    private(set) var repeated: Int?

    private static let few = 8

    init(_ members: [JSONObject.Member]) {
        if members.count > Self.few {
            var size = 4 * Self.few
            while size < 2 * members.count { size *= 2 }
            slots = [Int32](repeating: -1, count: size)
        }
        for index in members.indices {
            let name = members[index].name
            let found: Int?
            if slots.isEmpty {
                found = members[..<index].firstIndex { isSame($0.name, name) }
            } else {
                let slot = slot(of: name, in: members)
                found = slots[slot] < 0 ? nil : Int(slots[slot])
                slots[slot] = Int32(index)
            }
            if found != nil, repeated == nil { repeated = index }
        }
    }

    func place(of name: String, in members: [JSONObject.Member]) -> Int? {
        if slots.isEmpty { return members.lastIndex { isSame($0.name, name) } }
        let place = slots[slot(of: name, in: members)]
        return place < 0 ? nil : Int(place)
    }

    /// The slot of a name, or the free one that it would have.
    private func slot(of name: String, in members: [JSONObject.Member]) -> Int {
        var hasher = Hasher()
        var name = name
        name.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
        let mask = slots.count - 1
        var slot = hasher.finalize() & mask
        while slots[slot] >= 0, !isSame(members[Int(slots[slot])].name, name) {
            slot = (slot + 1) & mask
        }
        return slot
    }
}

extension JSON {
    /// The member of an object; nil where there is none, or where this is no object.
    public subscript(_ name: String) -> JSON? {
        object?[name]
    }

    /// The truth value, if it is one.
    public var bool: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }

    /// The whole number, if it is one that `Int` holds; `4.0` is none.
    public var int: Int? {
        if case .number(let value) = self { value.int } else { nil }
    }

    /// The number, if it is one.
    public var double: Double? {
        if case .number(let value) = self { value.double } else { nil }
    }

    /// The text, if it is one.
    public var string: String? {
        if case .string(let value) = self { value } else { nil }
    }

    /// The items, if this is a list.
    public var array: [JSON]? {
        if case .array(let value) = self { value } else { nil }
    }

    /// The members, if this is an object.
    public var object: JSONObject? {
        if case .object(let value) = self { value } else { nil }
    }

    /// Whether this is `null`.
    public var isNull: Bool {
        self == .null
    }
}

extension JSON: CustomStringConvertible {
    /// As JSON on one line.
    public var description: String {
        switch self {
        case .null: return "null"
        case .bool(let value): return value ? "true" : "false"
        case .number(let value): return value.text
        case .string(let value): return jsonText(value)
        case .array(let items): return "[" + items.map(\.description).joined(separator: ", ") + "]"
        case .object(let object):
            let members = object.members.map { "\(jsonText($0.name)): \($0.value)" }
            return "{" + members.joined(separator: ", ") + "}"
        }
    }
}

/// A JSON value as JSON, cut at `limit` characters.
func show(_ value: JSON, limit: Int = 120) -> String {
    let text = value.description
    return text.unicodeScalars.count <= limit ? text : String(text.prefix(limit - 1)) + "…"
}

/// A text as JSON, in ASCII.
private func jsonText(_ value: String) -> String {
    var text = "\""
    for unit in value.utf16 {
        switch unit {
        case 0x22: text += "\\\""
        case 0x5C: text += "\\\\"
        case 0x0A: text += "\\n"
        case 0x0D: text += "\\r"
        case 0x09: text += "\\t"
        case 0x08: text += "\\b"
        case 0x0C: text += "\\f"
        case 0x20..<0x7F: text += String(UnicodeScalar(UInt8(unit)))
        default: text += "\\u" + hex(UInt32(unit), digits: 4)
        }
    }
    return text + "\""
}
