/// What a safetensors header says, not yet held against the file's size.
struct SafetensorsHeader {
    struct Entry {
        let name: String
        let type: ElementType
        let shape: [Int]
        /// From the first tensor's first byte; `begin` is at most `end`.
        let begin, end: Int
        /// Of the name in the file.
        let at: Int
    }

    let metadata: [String: String]
    let entries: [Entry]
}

/// The header's JSON, read entry by entry: the first lie ends it, so that neither nesting nor a list
/// of a hundred million zeros costs more than its bytes.
struct SafetensorsParser {
    // Bounds beyond any model's, so that a hostile header of 100 MB is refused in about a second.
    private static let maxTensors = 100_000
    private static let maxDimensions = 32
    private static let maxName = 4096  // bytes of a name, and of a tensor's description
    private static let maxMetadata = 16 << 20
    private static let maxMetadataNames = 10_000

    private let text: UnsafeRawBufferPointer
    private let path: String
    private var at = 0

    /// A parser of a header's bytes, which begin at the file's eighth.
    init(_ bytes: UnsafeRawBufferPointer, _ path: String) {
        var count = bytes.count
        while count > 0, isJSONSpace(bytes[count - 1]) {
            count -= 1
        }
        text = UnsafeRawBufferPointer(rebasing: bytes[..<count])
        self.path = path
    }

    /// The metadata, and the entries in the header's order.
    mutating func parse() throws(FormatError) -> SafetensorsHeader {
        var metadata: [String: String]?
        var entries: [SafetensorsHeader.Entry] = []
        var names: Set<String> = []
        var more = try open("header")
        while more {
            let (start, name) = try key("header")
            if name == "__metadata__" {
                guard metadata == nil else { throw fail("__metadata__", "duplicate name", start) }
                metadata = try self.metadata()
            } else {
                let field = "tensor \(quote(name))"
                guard names.insert(name).inserted else {
                    throw fail(field, "duplicate name", start)
                }
                guard !name.isEmpty, isPrintable(name) else {
                    throw fail(field, "bad name: empty or not printable", start)
                }
                guard names.count <= Self.maxTensors else {
                    throw fail("header", "describes more than \(Self.maxTensors) tensors", start)
                }
                entries.append(try entry(name, field, 8 + start))
            }
            more = try next("header")
        }
        guard at == text.count else { throw fail("header", "invalid JSON: bytes behind its end") }
        return SafetensorsHeader(metadata: metadata ?? [:], entries: entries)
    }

    /// The `__metadata__` object: a flat one, text to text.
    private mutating func metadata() throws(FormatError) -> [String: String] {
        if text[at...].starts(with: "null".utf8) {
            at += 4
            return [:]
        }
        var metadata: [String: String] = [:]
        let start = at
        var more = try open("__metadata__")
        while more {
            let (place, name) = try key("__metadata__")
            let field = "__metadata__ \(quote(name))"
            let left = max(start + Self.maxMetadata - at, 0)
            let before = at
            guard let raw = takeString(until: at + left) else {
                at = before
                throw expected("text", field, within: left)
            }
            guard metadata.updateValue(try string(raw, before), forKey: name) == nil else {
                throw fail(field, "duplicate name", place)
            }
            guard metadata.count <= Self.maxMetadataNames else {
                let reason = "more than \(Self.maxMetadataNames) names"
                throw fail("__metadata__", reason, place)
            }
            more = try next("__metadata__")
        }
        return metadata
    }

    /// A tensor's `{"dtype", "shape", "data_offsets"}`; its name stands at `offset` in the file.
    private mutating func entry(
        _ name: String,
        _ field: String,
        _ offset: Int
    ) throws(FormatError) -> SafetensorsHeader.Entry {
        let start = at
        let members = try entryMembers(field)
        guard members.count == 3, let dtype = value("dtype"), let shape = value("shape"),
            let offsets = value("data_offsets")
        else {
            let names = JSON.array(members.map { .string($0.name) })
            let reason = "dtype, shape and data_offsets expected, each once"
            throw fail(field, "has \(show(names)); \(reason)", start)
        }
        func value(_ name: String) -> JSON? {
            members.first { $0.name == name }?.value
        }
        guard let type = dtype.string.flatMap(ElementType.init(rawValue:)) else {
            let known = ElementType.allCases.map(\.rawValue).joined(separator: ", ")
            throw fail(field, "unknown dtype \(show(dtype)); known: \(known)", start)
        }
        guard let dimensions = naturals(shape), dimensions.count <= Self.maxDimensions else {
            let limit = "at most \(Self.maxDimensions) integers from 0 to 2^63-1 expected"
            throw fail(field, "shape \(show(shape)): \(limit)", start)
        }
        guard let range = naturals(offsets), range.count == 2 else {
            let reason = "data_offsets \(show(offsets)): two integers from 0 to 2^63-1 expected"
            throw fail(field, reason, start)
        }
        let (begin, end) = (range[0], range[1])
        guard begin <= end else {
            throw fail(field, "data_offsets [\(begin), \(end)] are reversed", start)
        }
        var bits = Natural(product: dimensions.map(UInt64.init) + [UInt64(type.bits)])
        if bits != Natural(product: [8, UInt64(end - begin)]) {
            let all = bits.description
            let rest = bits.divide(by: 8)
            let need = rest == 0 ? "\(bits) bytes" : "\(all) bits"
            let said = "\(type.rawValue) \(show(shape)) needs \(need)"
            throw fail(field, "\(said), data_offsets [\(begin), \(end)] hold \(end - begin)", start)
        }
        return SafetensorsHeader.Entry(
            name: name,
            type: type,
            shape: dimensions,
            begin: begin,
            end: end,
            at: offset
        )
    }

    /// The members of a tensor's description, a flat object of at most two lists.
    private mutating func entryMembers(
        _ field: String
    ) throws(FormatError) -> [JSONObject.Member] {
        let start = at
        let limit = min(text.count, at + Self.maxName)
        var end = at
        if end < limit, text[end] == UInt8(ascii: "{") {
            end += 1
            while end < limit, text[end] != UInt8(ascii: "{"), text[end] != UInt8(ascii: "}") {
                end += 1
            }
        }
        guard end > at, end < limit, text[end] == UInt8(ascii: "}") else {
            let what = "an object of dtype, shape and data_offsets"
            throw expected(what, field, within: Self.maxName)
        }
        let body = UnsafeRawBufferPointer(rebasing: text[at...end])
        at = end + 1
        guard body.count(where: { $0 == UInt8(ascii: "[") }) == 2 else {
            throw fail(field, "shape and data_offsets must be lists of integers", start)
        }
        var parser = JSONParser(body, rules: JSONParser.Rules(loose: true))
        do {
            return try parser.members()
        } catch {
            throw fail(field, "invalid JSON: \(error.reason)", start)
        }
    }

    /// Moves behind an object's brace; false where it is closed at once.
    private mutating func open(_ field: String) throws(FormatError) -> Bool {
        let start = at
        skipSpace()
        guard at < min(text.count, start + Self.maxName), text[at] == UInt8(ascii: "{") else {
            at = start
            throw expected("'{'", field, within: Self.maxName)
        }
        at += 1
        skipSpace()
        if at < text.count, text[at] == UInt8(ascii: "}") {
            return try next(field)
        }
        return true
    }

    /// Moves behind a comma (true) or the closing brace (false), and the space around it.
    private mutating func next(_ field: String) throws(FormatError) -> Bool {
        let start = at
        skipSpace()
        guard at < min(text.count, start + Self.maxName),
            text[at] == UInt8(ascii: ",") || text[at] == UInt8(ascii: "}")
        else {
            at = start
            throw expected("',' or '}'", field, within: Self.maxName)
        }
        let more = text[at] == UInt8(ascii: ",")
        at += 1
        skipSpace()
        return more
    }

    /// A name and where it stands, and moves to its value.
    private mutating func key(_ field: String) throws(FormatError) -> (at: Int, name: String) {
        let start = at
        let limit = start + Self.maxName
        if let raw = takeString(until: limit) {
            skipSpace()
            if at < min(text.count, limit), text[at] == UInt8(ascii: ":") {
                at += 1
                skipSpace()
                return (start, try string(raw, start))
            }
        }
        at = start
        throw expected("a name in double quotes and ':'", field, within: Self.maxName)
    }

    /// The bytes between two quotes, and moves behind them; nil where they do not end by `limit`.
    private mutating func takeString(until limit: Int) -> Range<Int>? {
        let limit = min(text.count, limit)
        guard at < limit, text[at] == UInt8(ascii: "\"") else { return nil }
        let start = at + 1
        var end = start
        while end < limit {
            switch text[end] {
            case UInt8(ascii: "\""):
                at = end + 1
                return start..<end
            case UInt8(ascii: "\\"): end += 2
            case 0..<0x20: return nil
            default: end += 1
            }
        }
        return nil
    }

    /// The text of a JSON string whose bytes these are, without its quotes.
    private func string(_ raw: Range<Int>, _ start: Int) throws(FormatError) -> String {
        let quoted = UnsafeRawBufferPointer(
            rebasing: text[(raw.lowerBound - 1)..<(raw.upperBound + 1)]
        )
        var parser = JSONParser(quoted)
        do {
            return try parser.whole().string ?? ""
        } catch {
            let reason = error.reason
                .replacingPrefix("not UTF-8", with: "not utf-8")
                .replacingPrefix("a lone surrogate", with: "surrogates not allowed: a lone one")
            throw fail("header", "invalid text: \(reason)", start)
        }
    }

    private mutating func skipSpace() {
        while at < text.count, isJSONSpace(text[at]) {
            at += 1
        }
    }

    private func expected(_ what: String, _ field: String, within: Int) -> FormatError {
        let seen = text[at...].prefix(20)
        let shown = seen.isEmpty ? "its end" : quote(bytes: seen)
        let reason = "invalid JSON: \(what) expected within \(within) bytes, found \(shown)"
        return fail(field, reason, at)
    }

    /// The error that blames the byte at `place`, in the header, or the current one.
    private func fail(_ field: String, _ reason: String, _ place: Int? = nil) -> FormatError {
        FormatError(.file, file: path, field: field, offset: 8 + (place ?? at), reason: reason)
    }
}

/// The integers of a list of such from 0 to 2^63-1; nil where it is none (`true` and `1.0` are none).
private func naturals(_ value: JSON) -> [Int]? {
    guard let items = value.array else { return nil }
    var found: [Int] = []
    for item in items {
        guard let number = item.int, number >= 0 else { return nil }
        found.append(number)
    }
    return found
}

extension String {
    fileprivate func replacingPrefix(_ old: String, with new: String) -> String {
        hasPrefix(old) ? new + dropFirst(old.count) : self
    }
}
