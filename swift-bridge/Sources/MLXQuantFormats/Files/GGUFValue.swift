/// The types of a GGUF file's metadata, by their numbers in the file.
public enum GGUFValueType: UInt32, Sendable, Hashable, CaseIterable {
    /// An unsigned 8-bit integer.
    case u8 = 0
    /// A signed 8-bit integer.
    case i8 = 1
    /// An unsigned 16-bit integer.
    case u16 = 2
    /// A signed 16-bit integer.
    case i16 = 3
    /// An unsigned 32-bit integer.
    case u32 = 4
    /// A signed 32-bit integer.
    case i32 = 5
    /// A 32-bit float.
    case f32 = 6
    /// A truth value.
    case bool = 7
    /// A text.
    case string = 8
    /// Values of one type.
    case array = 9
    /// An unsigned 64-bit integer.
    case u64 = 10
    /// A signed 64-bit integer.
    case i64 = 11
    /// A 64-bit float.
    case f64 = 12

    /// In errors and tables: `u32`, `str`, `arr`, ….
    public var name: String {
        switch self {
        case .string: "str"
        case .array: "arr"
        default: "\(self)"
        }
    }

    /// Bytes of a value; nil where they differ from value to value.
    var size: Int? {
        switch self {
        case .u8, .i8, .bool: 1
        case .u16, .i16: 2
        case .u32, .i32, .f32: 4
        case .u64, .i64, .f64: 8
        case .string, .array: nil
        }
    }
}

/// A value of a GGUF file's metadata, decoded when it is asked for: a vocabulary that nobody looks
/// at costs nothing.
///
///     str      length u64 │ UTF-8, no terminator
///     arr      item type u32 │ count u64 │ items, one after the other
///     others   little-endian
public struct GGUFValue: Sendable {
    /// The value's type.
    public let type: GGUFValueType
    /// Its bytes in the file, behind the number of its type; checked when the file was opened.
    public let region: FileRegion

    /// An array's type of items; nil for what is none.
    public var itemType: GGUFValueType? {
        type == .array ? GGUFValueType(rawValue: read(at: 0)) : nil
    }

    /// An array's number of items; 1 for what is none.
    public var count: Int {
        type == .array ? Int(read(at: 4) as UInt64) : 1
    }

    /// The type in one word: `u32`, or `[str]` for an array of texts.
    public var kind: String {
        itemType.map { "[\($0.name)]" } ?? type.name
    }

    /// A whole number that `Int` holds; nil for what is none.
    public var int: Int? {
        integer(type, at: 0)
    }

    /// A number, whole or not; nil for what is none.
    public var double: Double? {
        number(type, at: 0)
    }

    /// A truth value; nil for what is none.
    public var bool: Bool? {
        type == .bool ? read(at: 0) as UInt8 == 1 : nil
    }

    /// A text; nil for what is none.
    public var string: String? {
        guard type == .string else { return nil }
        return region.withUnsafeBytes { String(decoding: $0[8...], as: UTF8.self) }
    }

    /// The items of an array of whole numbers that `Int` holds; nil for what is none.
    public var ints: [Int]? {
        items { integer($0, at: $1) }
    }

    /// The items of an array of numbers, whole or not; nil for what is none.
    public var doubles: [Double]? {
        items { number($0, at: $1) }
    }

    /// The items of an array of truth values; nil for what is none.
    public var bools: [Bool]? {
        items { $0 == .bool ? read(at: $1) as UInt8 == 1 : nil }
    }

    /// The items of an array of texts, what is not UTF-8 in them replaced; nil for what is none.
    public var strings: [String]? {
        guard itemType == .string else { return nil }
        var found: [String] = []
        found.reserveCapacity(count)
        forEachText { found.append(String(decoding: $0, as: UTF8.self)) }
        return found
    }

    /// The first items of an array as text, for people to read; none for what is no array.
    ///
    /// - Parameter limit: how many at most.
    /// - Returns: the items; arrays in arrays as their type.
    public func first(_ limit: Int) -> [String] {
        guard let itemType else { return [] }
        if itemType == .string {
            return region.withUnsafeBytes { bytes in
                var (found, at) = ([String](), 12)
                for _ in 0..<min(limit, count) {
                    let end = at + 8 + Int(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                    found.append(String(decoding: bytes[(at + 8)..<end], as: UTF8.self))
                    at = end
                }
                return found
            }
        }
        guard let size = itemType.size else { return [kind] }
        return (0..<min(limit, count)).map { index in
            let at = 12 + index * size
            if itemType == .bool {
                return read(at: at) as UInt8 == 1 ? "true" : "false"
            }
            let whole = integer(itemType, at: at).map(String.init)
            return whole ?? number(itemType, at: at).map { String(Float($0)) } ?? ""
        }
    }

    /// Calls `body` with the bytes of each text of an array of texts, in order; with none for what
    /// is no such array.
    ///
    /// - Parameter body: what to do with a text's bytes, which are valid for that call only.
    /// - Throws: what `body` throws.
    public func forEachText<Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        guard itemType == .string else { return }
        let count = count
        try region.withUnsafeBytes { (bytes) throws(Failure) in
            var at = 12
            for _ in 0..<count {
                let length = Int(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                at += 8
                try body(UnsafeRawBufferPointer(rebasing: bytes[at..<(at + length)]))
                at += length
            }
        }
    }

    /// The items of an array of values of one size; nil where one of them is none of these.
    private func items<Item>(_ item: (GGUFValueType, Int) -> Item?) -> [Item]? {
        guard let type = itemType, let size = type.size else { return nil }
        var found: [Item] = []
        found.reserveCapacity(count)
        for index in 0..<count {
            guard let value = item(type, 12 + index * size) else { return nil }
            found.append(value)
        }
        return found
    }

    private func integer(_ type: GGUFValueType, at offset: Int) -> Int? {
        switch type {
        case .u8: Int(read(at: offset) as UInt8)
        case .i8: Int(read(at: offset) as Int8)
        case .u16: Int(read(at: offset) as UInt16)
        case .i16: Int(read(at: offset) as Int16)
        case .u32: Int(read(at: offset) as UInt32)
        case .i32: Int(read(at: offset) as Int32)
        case .u64: Int(exactly: read(at: offset) as UInt64)
        case .i64: Int(read(at: offset) as Int64)
        case .f32, .f64, .bool, .string, .array: nil
        }
    }

    private func number(_ type: GGUFValueType, at offset: Int) -> Double? {
        switch type {
        case .f32: Double(Float(bitPattern: read(at: offset)))
        case .f64: Double(bitPattern: read(at: offset))
        case .u64: Double(read(at: offset) as UInt64)
        default: integer(type, at: offset).map(Double.init)
        }
    }

    private func read<Number: FixedWidthInteger & BitwiseCopyable>(at offset: Int) -> Number {
        region.withUnsafeBytes {
            Number(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: Number.self))
        }
    }
}
