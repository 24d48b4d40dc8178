import TestSupport

@testable import MLXQuantFormats

/// Values at which readers go wrong.
private let telling: [JSON] = [
    .null, .bool(true), .bool(false), .string(""), .string("a"), .string("\u{2581}"),
    .string("\u{E9}"), .string("e\u{301}"), .string(" "), .string("\0"), .string("<0x0A>"),
    .string("Sequence"), .string("ByteLevel"), .string("Split"), .string("Metaspace"),
    .string("Replace"), .string("(a|a)*b"), .string("[^\\s\\p{L}]+?(?!x)"), .string("{{ x }}"),
    .string("BPE"), .string("default"), .string("yarn"), .string("llama3"), .string("linear"),
    .string("GemmaTokenizer"), .string(String(repeating: "ab", count: 300)), .array([]),
    .object(JSONObject([])),
]
private let tellingNumbers = [
    "0", "1", "2", "3", "7", "64", "255", "65535", "3999999", "4000000", "1073741824",
    "2147483648", "9223372036854775807", "9223372036854775808", "1e308", "1e999", "0.5", "1e-320",
]

/// A JSON value with one to four changes: a part of it is something telling, stands twice, is gone, or
/// is a part of another place.
func mutated(_ value: JSON, _ random: inout RandomStream) -> JSON {
    var value = value
    for _ in 0...random.below(4) {
        let other = random.once(in: 3) ? part(of: value, &random) : fresh(&random)
        value = changed(value, other, &random)
    }
    return value
}

private func fresh(_ random: inout RandomStream) -> JSON {
    guard random.once(in: 2) else { return random.pick(telling) }
    let sign = random.once(in: 4) ? "-" : ""
    return .number(JSONNumber(sign + random.pick(tellingNumbers)))
}

/// A part at a random place, deep ones as likely as others.
private func part(of value: JSON, _ random: inout RandomStream) -> JSON {
    switch value {
    case .array(let items) where !items.isEmpty && !random.once(in: 4):
        return part(of: random.pick(items), &random)
    case .object(let object) where !object.members.isEmpty && !random.once(in: 4):
        return part(of: random.pick(object.members).value, &random)
    default: return value
    }
}

private func changed(_ value: JSON, _ other: JSON, _ random: inout RandomStream) -> JSON {
    switch value {
    case .array(var items) where !items.isEmpty && !random.once(in: 6):
        let place = random.below(items.count)
        switch random.below(8) {
        case 0: items.remove(at: place)
        case 1: items.insert(items[place], at: random.below(items.count))
        case 2: items.append(other)
        default: items[place] = changed(items[place], other, &random)
        }
        return .array(items)
    case .object(let object) where !object.members.isEmpty && !random.once(in: 6):
        var members = object.members
        let place = random.below(members.count)
        let old = members[place]
        switch random.below(10) {
        case 0: members.remove(at: place)
        case 1:
            let name = random.pick(members).name
            members[place] = JSONObject.Member(name: name, value: old.value)
        case 2: members.append(JSONObject.Member(name: "\u{E9}", value: other))
        default:
            let new = changed(old.value, other, &random)
            members[place] = JSONObject.Member(name: old.name, value: new)
        }
        return .object(JSONObject(members))
    default: return other
    }
}
