/// A safetensors file: its header, checked against the file's size. No tensor is read.
///
///     0          8                      8 + n                                     size
///     ┌──────────┬──────────────────────┬──────────┬──────────┬───────────────────┐
///     │ n, u64le │ JSON, n bytes        │ tensor 0 │ tensor 1 │ …  no hole, no    │
///     │          │ (padded with spaces) │          │          │    trailing byte  │
///     └──────────┴──────────────────────┴──────────┴──────────┴───────────────────┘
///
/// Format: <https://github.com/huggingface/safetensors#format>
public struct SafetensorsFile: Sendable {
    /// The mapped file.
    public let file: MappedFile
    /// The first tensor's first byte.
    public let dataStart: Int
    /// What the header's `__metadata__` says.
    public let metadata: [String: String]
    /// The tensors, in the order of their bytes.
    public let tensors: [StoredTensor]
    private let places: [String: Int]

    /// The longest header, in bytes, that the safetensors library reads.
    static let headerLimit = 100_000_000

    /// Opens a file and checks its header.
    ///
    /// - Parameter path: of the file.
    /// - Throws: ``FormatError`` if the file is missing or no safetensors file, its header lies, or
    ///   its length is not what the header says; with the tensor, the byte, the value and the limit.
    public init(_ path: String) throws(FormatError) {
        try self.init(try MappedFile(path))
    }

    init(_ file: MappedFile) throws(FormatError) {
        self.file = file
        // so that what lies behind the header stays on the disk
        file.advise(readAhead: false)
        defer { file.advise(readAhead: true) }
        let parsed = try file.withUnsafeBytes { (bytes) throws(FormatError) in
            try Self.parse(bytes, of: file)
        }
        dataStart = parsed.dataStart
        metadata = parsed.header.metadata
        tensors = try inOrder(parsed.header.entries, of: file, dataStart: parsed.dataStart)
        places = Dictionary(uniqueKeysWithValues: tensors.enumerated().map { ($1.name, $0) })
    }

    /// The tensor of that name; nil where there is none.
    public subscript(_ name: String) -> StoredTensor? {
        places[name].map { tensors[$0] }
    }

    private static func parse(
        _ bytes: UnsafeRawBufferPointer,
        of file: MappedFile
    ) throws(FormatError) -> (dataStart: Int, header: SafetensorsHeader) {
        let what = sniff(bytes.prefix(sniffedBytes)).map { "this is \($0)" }
        func fail(_ field: String, _ offset: Int, _ reason: String) -> FormatError {
            FormatError(.file, file: file.path, field: field, offset: offset, reason: reason)
        }
        guard bytes.count >= 9 else {
            let reason = "truncated: \(bytes.count) bytes, at least 10 expected; download it again"
            throw fail("header length", 0, what ?? reason)
        }
        let length = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        guard length > 0 else {
            throw fail("header length", 0, what ?? "0, at least 2 expected")
        }
        guard length <= headerLimit else {
            let reason = "\(length) bytes, the limit is \(headerLimit)"
            throw fail("header length", 0, what ?? "\(reason); this is no safetensors file")
        }
        guard bytes[8] == UInt8(ascii: "{") || isJSONSpace(bytes[8]) else {
            let reason = "begins with byte 0x\(hex(UInt32(bytes[8]), digits: 2)), '{' expected"
            throw fail("header", 8, what ?? reason)
        }
        let end = 8 + Int(length)
        guard end <= bytes.count else {
            let reason = "truncated: it ends at byte \(end), the file has \(bytes.count)"
            throw fail("header length", 0, "\(reason); download it again")
        }
        var parser = SafetensorsParser(UnsafeRawBufferPointer(rebasing: bytes[8..<end]), file.path)
        return (end, try parser.parse())
    }
}

/// One array of a file.
public struct StoredTensor: Sendable {
    /// The name in the file.
    public let name: String
    /// The type of its elements.
    public let type: ElementType
    /// The dimensions in elements, rows last.
    public let shape: [Int]
    /// The array's bytes in the file.
    public let region: FileRegion

    /// How many elements there are: the product of the shape.
    public var elements: Int {
        region.count * 8 / type.bits
    }
}

/// The entries in the order of their bytes, checked to fill the file exactly.
private func inOrder(
    _ entries: [SafetensorsHeader.Entry],
    of file: MappedFile,
    dataStart: Int
) throws(FormatError) -> [StoredTensor] {
    func fail(_ field: String, _ offset: Int, _ reason: String) -> FormatError {
        FormatError(.file, file: file.path, field: field, offset: offset, reason: reason)
    }
    let room = file.size - dataStart
    var ordered: [StoredTensor] = []
    ordered.reserveCapacity(entries.count)
    var end = 0
    var last = "the header"
    for entry in entries.sorted(by: { ($0.begin, $0.end, $0.at) < ($1.begin, $1.end, $1.at) }) {
        let field = "tensor \(quote(entry.name))"
        if entry.begin != end || entry.end > room {
            let reason = "begins at data byte \(entry.begin), but \(last) ends at \(end)"
            if entry.begin < end {
                throw fail(field, entry.at, "\(reason): they overlap")
            }
            if entry.end > room {
                let total = Natural(sum: dataStart, entries.lazy.map(\.end).max() ?? 0)
                let stop = Natural(sum: dataStart, entry.end)
                let reason = "ends at byte \(stop), past the file's end: truncated"
                let sizes = "(\(total) bytes expected, \(file.size) found)"
                throw fail(field, entry.at, "\(reason) \(sizes); download it again")
            }
            throw fail(field, entry.at, "\(reason): a hole of \(entry.begin - end) bytes")
        }
        let range = (dataStart + entry.begin)..<(dataStart + entry.end)
        ordered.append(
            StoredTensor(
                name: entry.name,
                type: entry.type,
                shape: entry.shape,
                region: FileRegion(file, range)
            )
        )
        end = entry.end
        last = field
    }
    guard end == room else {
        let reason = "\(room - end) trailing bytes: \(dataStart + end) bytes expected"
        throw fail("end of data", dataStart + end, "\(reason), \(file.size) found")
    }
    return ordered
}

extension Natural {
    /// The sum of two numbers that are not negative.
    fileprivate init(sum first: Int, _ second: Int) {
        self.init(UInt64(first) + UInt64(second))
    }
}
