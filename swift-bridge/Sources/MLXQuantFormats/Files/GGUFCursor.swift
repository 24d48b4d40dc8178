/// Walks through the header of a GGUF file: no count and no length is believed before the file's
/// size allows it.
struct GGUFCursor {
    /// The longest header that is read, in bytes.
    static let headerLimit = 1 << 28

    // Bounds beyond any model's, so that a hostile header is refused in about a second.
    private static let maxItems = 1 << 22
    private static let maxDepth = 4  // of arrays in arrays

    let file: MappedFile
    let bytes: UnsafeRawBufferPointer
    /// The current byte.
    private(set) var at = 0
    /// Texts and arrays inside of arrays so far.
    private var items = 0

    /// A walk through a file's bytes, from `start`.
    init(_ file: MappedFile, _ bytes: UnsafeRawBufferPointer, at start: Int = 0) {
        self.file = file
        self.bytes = bytes
        at = start
    }

    /// The error that blames the byte at `place`, or the current one.
    func fail(_ field: String, _ reason: String, _ place: Int? = nil) -> FormatError {
        FormatError(.file, file: file.path, field: field, offset: place ?? at, reason: reason)
    }

    /// Have the file's first `stop` bytes.
    private func need(_ stop: Int, _ field: String) throws(FormatError) {
        guard stop <= bytes.count else {
            let reason = "truncated header: it goes on to byte \(stop), the file has \(bytes.count)"
            throw fail(field, "\(reason); download it again")
        }
        guard stop <= Self.headerLimit else {
            throw fail(field, "header of more than \(Self.headerLimit) bytes, which is the limit")
        }
    }

    /// The next four bytes.
    mutating func u32(_ field: String) throws(FormatError) -> UInt32 {
        try need(at + 4, field)
        defer { at += 4 }
        return UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))
    }

    /// The next eight bytes.
    mutating func u64(_ field: String) throws(FormatError) -> UInt64 {
        try need(at + 8, field)
        defer { at += 8 }
        return UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
    }

    /// A key, or a tensor's name, of at most `limit` bytes.
    mutating func name(_ field: String, limit: Int) throws(FormatError) -> String {
        let start = at
        let name = try text(field, limit: limit)
        guard !name.isEmpty else { throw fail(field, "bad name: empty", start) }
        guard !isBadName(name) else {
            let reason = "bad name: characters that cannot be printed, or '../'"
            throw fail("\(field) \(quote(name))", reason, start)
        }
        return name
    }

    /// A type and a value of it.
    mutating func value(_ field: String) throws(FormatError) -> GGUFValue {
        let start = at
        let number = try u32(field)
        guard let type = GGUFValueType(rawValue: number) else {
            let known = GGUFValueType.allCases.map(\.rawValue).max() ?? 0
            throw fail(field, "bad value type \(number), at most \(known) is known", start)
        }
        let begin = at
        switch type {
        case .string: _ = try text(field)
        case .array: try array(field, depth: 1)
        default: try numbers(field, type, count: 1)
        }
        return GGUFValue(type: type, region: FileRegion(file, begin..<at))
    }

    /// A text of at most `limit` bytes.
    private mutating func text(
        _ field: String,
        limit: Int = headerLimit
    ) throws(FormatError) -> String {
        let start = at
        let length = try u64(field)
        let left = bytes.count - at
        guard length <= left else {
            let reason = "bad length: \(length) bytes, but the file has \(left) left"
            throw fail(field, reason, start)
        }
        guard length <= limit else {
            throw fail(field, "bad length: \(length) bytes, the limit is \(limit)", start)
        }
        let end = at + Int(length)
        try need(end, field)
        let raw = UnsafeRawBufferPointer(rebasing: bytes[at..<end])
        if let bad = invalidUTF8(in: raw) {
            throw fail(field, "not UTF-8", at + bad)
        }
        at = end
        return String(decoding: raw, as: UTF8.self)
    }

    /// Moves behind `count` values of a type of fixed size.
    private mutating func numbers(
        _ field: String,
        _ type: GGUFValueType,
        count: Int
    ) throws(FormatError) {
        let stop = at + count * (type.size ?? 0)
        try need(stop, field)
        if type == .bool, bytes[at..<stop].contains(where: { $0 > 1 }) {
            throw fail(field, "bad bool: a byte that is neither 0 nor 1")
        }
        at = stop
    }

    /// Moves behind an array's item type, count and items.
    private mutating func array(_ field: String, depth: Int) throws(FormatError) {
        let start = at
        let number = try u32(field)
        let count = try u64(field)
        guard let type = GGUFValueType(rawValue: number) else {
            throw fail(field, "bad array: unknown item type \(number)", start)
        }
        guard depth <= Self.maxDepth else {
            throw fail(field, "bad array: nested more than \(Self.maxDepth) deep", start)
        }
        let each = UInt64(type.size ?? (type == .array ? 12 : 8))
        let left = bytes.count - at
        let (least, overflow) = count.multipliedReportingOverflow(by: each)
        guard !overflow, least <= left else {
            let need = Natural(product: [count, each])
            let reason = "\(count) items need \(need) bytes or more, the file has \(left) left"
            throw fail(field, "bad array: \(reason)", start)
        }
        guard type.size == nil else {
            return try numbers(field, type, count: Int(count))
        }
        items += Int(count)
        guard items <= Self.maxItems else {
            let reason = "bad array: more than \(Self.maxItems) texts and arrays in arrays"
            throw fail(field, reason, start)
        }
        for index in 0..<Int(count) {
            if type == .array {
                try array(field, depth: depth + 1)
            } else {
                try stepOverText(field, index, of: Int(count))
            }
        }
    }

    /// Moves behind a text of an array.
    private mutating func stepOverText(
        _ field: String,
        _ index: Int,
        of count: Int
    ) throws(FormatError) {
        let start = at
        guard bytes.count - at >= 8 else {
            let reason = "truncated header: text \(index) of \(count) begins behind its end"
            throw fail(field, "\(reason); download it again", start)
        }
        let length = try u64(field)
        guard length <= bytes.count - at else {
            let reason = "bad length: \(length) bytes in text \(index) of \(count)"
            throw fail(field, "\(reason), but the file has \(bytes.count - at) left", start)
        }
        try need(at + Int(length), field)
        at += Int(length)
    }
}
