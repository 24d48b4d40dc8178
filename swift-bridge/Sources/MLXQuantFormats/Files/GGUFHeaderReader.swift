/// A GGUF header, read from its first byte to its last.
struct GGUFHeaderReader {
    // Bounds beyond any model's, so that a hostile header is refused in about a second.
    private static let maxTensors = 100_000
    private static let maxKeys = 100_000
    private static let maxName = 255  // bytes; llama.cpp itself takes 63
    private static let maxKey = 65_535
    private static let maxDimensions = 4
    private static let maxAlignment = 1 << 20
    private static let alignment = 32  // where the file names none

    private static let leastKey = 8 + 1 + 4 + 1  // bytes of the shortest key and value
    private static let leastTensor = 8 + 1 + 4 + 8 + 4 + 8

    /// A tensor before its range is absolute.
    private struct Raw {
        let name: String
        let offset: Int
        let bytes: Int
        let type: GGMLType
        let shape: [Int]
    }

    private let file: MappedFile
    private let bytes: UnsafeRawBufferPointer
    private var cursor: GGUFCursor

    /// A reader of a file's bytes.
    init(_ file: MappedFile, _ bytes: UnsafeRawBufferPointer) {
        self.file = file
        self.bytes = bytes
        cursor = GGUFCursor(file, bytes)
    }

    /// The whole header.
    mutating func read() throws(FormatError) -> GGUFFile {
        let (version, tensorCount, keyCount) = try preamble()
        var keys: [String] = []
        var metadata: [String: GGUFValue] = [:]
        for index in 0..<keyCount {
            let start = cursor.at
            let key = try cursor.name("key \(index)", limit: Self.maxKey)
            guard metadata[key] == nil else {
                throw cursor.fail("key \(quote(key))", "bad name: duplicate key", start)
            }
            metadata[key] = try cursor.value("key \(quote(key))")
            keys.append(key)
        }
        let alignment = try alignment(metadata["general.alignment"])
        var found: [Raw] = []
        var names: Set<String> = []
        for index in 0..<tensorCount {
            let start = cursor.at
            let name = try cursor.name("tensor \(index)", limit: Self.maxName)
            guard names.insert(name).inserted else {
                throw cursor.fail("tensor \(quote(name))", "bad name: duplicate name", start)
            }
            found.append(try tensor(name, alignment))
        }
        var dataStart = padded(cursor.at, to: alignment)
        if dataStart > bytes.count {
            guard found.isEmpty else {
                let reason = "truncated: data begin at byte \(dataStart)"
                let size = "the file has \(bytes.count); download it again"
                throw cursor.fail("tensors", "\(reason), \(size)")
            }
            dataStart = bytes.count  // no tensor, and no padding for it
        }
        return GGUFFile(
            file: file,
            version: version,
            alignment: alignment,
            keys: keys,
            metadata: metadata,
            tensors: try inOrder(found, dataStart, alignment),
            dataStart: dataStart
        )
    }

    /// The version, and the numbers of tensors and of keys.
    private mutating func preamble() throws(FormatError) -> (Int, Int, Int) {
        let magic = Array(bytes.prefix(4))
        if magic != Array("GGUF".utf8), let what = sniff(bytes.prefix(sniffedBytes)) {
            let swapped = magic == Array("FUGG".utf8) ? ", of an unsupported version" : ""
            throw cursor.fail("magic", "this is \(what)\(swapped)")
        }
        guard bytes.count >= 24 else {
            let reason = "truncated header: \(bytes.count) bytes, at least 24 expected"
            throw cursor.fail("header", "\(reason); download it again")
        }
        guard magic == Array("GGUF".utf8) else {
            let reason = "this is no GGUF file: it begins with b\(quote(bytes: magic))"
            throw cursor.fail("magic", "\(reason), b'GGUF' expected")
        }
        cursor = GGUFCursor(file, bytes, at: 4)
        let version = try cursor.u32("version")
        guard version == 2 || version == 3 else {
            var reason = "unsupported version \(version), 2 and 3 are read"
            if version == 1 {
                reason += ": convert the model anew"
            } else if version & 0xFFFF == 0 && version != 0 {
                reason += ": this file is big-endian (byte-swapped); get the little-endian one"
            }
            throw cursor.fail("version", reason, 4)
        }
        let tensors = try count("tensor", least: Self.leastTensor, limit: Self.maxTensors)
        let keys = try count("key", least: Self.leastKey, limit: Self.maxKeys)
        return (Int(version), tensors, keys)
    }

    private mutating func count(
        _ what: String,
        least: Int,
        limit: Int
    ) throws(FormatError) -> Int {
        let start = cursor.at
        let count = try cursor.u64("\(what) count")
        let (need, overflow) = count.multipliedReportingOverflow(by: UInt64(least))
        guard !overflow, need <= bytes.count - 24 else {
            let reason = "\(count) exceeds the file, which has \(bytes.count) bytes and would need"
            let total = Natural(product: [count, UInt64(least)])
            throw cursor.fail(
                "\(what) count",
                "\(reason) \(total) or more: truncated, or a lie",
                start
            )
        }
        guard count <= limit else {
            throw cursor.fail("\(what) count", "\(count), the limit is \(limit)", start)
        }
        return Int(count)
    }

    /// What `general.alignment` says.
    private func alignment(_ value: GGUFValue?) throws(FormatError) -> Int {
        guard let value else { return Self.alignment }
        func bad(_ reason: String) -> FormatError {
            let offset = value.region.range.lowerBound
            return cursor.fail("general.alignment", "bad alignment: \(reason)", offset)
        }
        guard value.type == .u32, let found = value.int else {
            throw bad("of type \(value.kind), u32 expected")
        }
        guard found > 0, found <= Self.maxAlignment, found & (found - 1) == 0 else {
            throw bad("\(found) is no power of two up to \(Self.maxAlignment)")
        }
        return found
    }

    /// What stands behind a tensor's name.
    private mutating func tensor(
        _ name: String,
        _ alignment: Int
    ) throws(FormatError) -> Raw {
        let field = "tensor \(quote(name))"
        let start = cursor.at
        let count = try cursor.u32(field)
        guard count > 0, count <= Self.maxDimensions else {
            let reason = "size overflow: \(count) dimensions, 1 to \(Self.maxDimensions) expected"
            throw cursor.fail(field, reason, start)
        }
        var dims: [UInt64] = []
        for _ in 0..<count {
            dims.insert(try cursor.u64(field), at: 0)
        }
        guard !dims.contains(0) else {
            throw cursor.fail(field, "size overflow: a dimension is 0 in \(dims)", start)
        }
        let type = try type(field)
        let row = dims[dims.count - 1]
        guard row % UInt64(type.blockSize) == 0 else {
            let reason = "unsupported tensor: rows of \(row) weights are no multiple of"
            throw cursor.fail(field, "\(reason) \(type.name)'s block of \(type.blockSize)", start)
        }
        var size = Natural(product: dims)
        size.divide(by: UInt32(type.blockSize))
        size.multiply(by: UInt64(type.blockBytes))
        guard let needed = size.int, needed <= bytes.count else {
            var reason = "size overflow: \(type.name) \(dims) needs \(size) bytes"
            if size.int != nil {
                reason += "; truncated, or a lie: the whole file has \(bytes.count)"
            }
            throw cursor.fail(field, reason, start)
        }
        let place = cursor.at
        let offset = try cursor.u64(field)
        guard offset % UInt64(alignment) == 0 else {
            let reason = "out of range: offset \(offset) is no multiple of the alignment"
            throw cursor.fail(field, "\(reason), \(alignment)", place)
        }
        guard offset <= bytes.count else {
            let reason = "out of range: offset \(offset) in a file of \(bytes.count) bytes"
            throw cursor.fail(field, "\(reason); download it again", place)
        }
        return Raw(
            name: name,
            offset: Int(offset),
            bytes: needed,
            type: type,
            shape: dims.map { Int($0) }
        )
    }

    private mutating func type(_ field: String) throws(FormatError) -> GGMLType {
        let start = cursor.at
        let number = try cursor.u32(field)
        guard let type = GGMLType(rawValue: number) else {
            let what =
                GGMLType.retired[number].map {
                    "(\($0)) is no longer used: convert the model anew"
                } ?? "is unknown"
            throw cursor.fail(field, "unsupported tensor: type \(number) \(what)", start)
        }
        return type
    }

    /// The tensors in the order of their bytes, checked to follow each other in the file.
    private func inOrder(
        _ found: [Raw],
        _ dataStart: Int,
        _ alignment: Int
    ) throws(FormatError) -> [GGUFTensor] {
        var tensors: [GGUFTensor] = []
        tensors.reserveCapacity(found.count)
        var end = 0
        var last = "the header"
        let places = found.indices.sorted { first, second in
            (found[first].offset, found[first].bytes, first)
                < (found[second].offset, found[second].bytes, second)
        }
        for raw in places.map({ found[$0] }) {
            let field = "tensor \(quote(raw.name))"
            let start = dataStart + raw.offset
            let stop = start + raw.bytes
            guard raw.offset == end else {
                let what =
                    raw.offset < end ? "they overlap" : "a hole of \(raw.offset - end) bytes"
                let reason = "out of range: begins at data byte \(raw.offset), but \(last)"
                throw cursor.fail(field, "\(reason) ends at \(end): \(what)", start)
            }
            guard stop <= bytes.count else {
                let reason = "out of range: ends at byte \(stop), the file has \(bytes.count)"
                throw cursor.fail(field, "\(reason): truncated; download it again", start)
            }
            tensors.append(
                GGUFTensor(
                    name: raw.name,
                    type: raw.type,
                    shape: raw.shape,
                    region: FileRegion(file, start..<stop)
                )
            )
            end = padded(raw.offset + raw.bytes, to: alignment)
            last = field
        }
        return tensors
    }
}
