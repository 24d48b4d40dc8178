/// A GGUF file: its header, checked against the file's size. No tensor is read.
///
///     0      4         8              16          24
///     ┌──────┬─────────┬──────────────┬───────────┬──────────┬─────────┬─────┬──────────┬─────┬───
///     │ GGUF │ version │ tensor count │ key count │ metadata │ tensors │ pad │ tensor 0 │ pad │ …
///     │      │ u32     │ u64          │ u64       │          │         │     │          │     │
///     └──────┴─────────┴──────────────┴───────────┴──────────┴─────────┴─────┴──────────┴─────┴───
///                                                                      dataStart, aligned
///
///     metadata   key str │ type u32 │ value
///     tensors    name str │ n_dims u32 │ dims u64 each, a row's first │ type u32 │ offset u64
///
/// Versions 2 and 3, little-endian. Format:
/// <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>
public struct GGUFFile: Sendable {
    /// The mapped file.
    public let file: MappedFile
    /// The format's version: 2 or 3.
    public let version: Int
    /// Every tensor begins at a multiple of so many bytes behind ``dataStart``.
    public let alignment: Int
    /// The keys of the metadata, in the file's order.
    public let keys: [String]
    /// The metadata's values by key.
    public let metadata: [String: GGUFValue]
    /// The tensors, in the order of their bytes.
    public let tensors: [GGUFTensor]
    /// The first tensor's first byte; where there is none, the header's end.
    public let dataStart: Int

    /// Opens a file and checks its header.
    ///
    /// - Parameter path: of the file; of a split model, one part. ``GGUFModel`` opens them all.
    /// - Throws: ``FormatError`` if the file is missing or no GGUF file, its header lies, or it is
    ///   cut short; with the key or tensor, the byte, the value and the limit.
    public init(_ path: String) throws(FormatError) {
        try self.init(try MappedFile(path))
    }

    init(_ file: MappedFile) throws(FormatError) {
        self = try file.withUnsafeBytes { (bytes) throws(FormatError) in
            var reader = GGUFHeaderReader(file, bytes)
            return try reader.read()
        }
    }

    init(
        file: MappedFile,
        version: Int,
        alignment: Int,
        keys: [String],
        metadata: [String: GGUFValue],
        tensors: [GGUFTensor],
        dataStart: Int
    ) {
        self.file = file
        self.version = version
        self.alignment = alignment
        self.keys = keys
        self.metadata = metadata
        self.tensors = tensors
        self.dataStart = dataStart
    }

    /// The value of a key; nil where there is none.
    public subscript(_ key: String) -> GGUFValue? {
        metadata[key]
    }

    /// The error that blames a key.
    func fail(_ key: String, _ reason: String) -> FormatError {
        let offset = metadata[key]?.region.range.lowerBound
        return FormatError(.file, file: file.path, field: key, offset: offset, reason: reason)
    }
}

/// One tensor of a GGUF file.
public struct GGUFTensor: Sendable {
    /// The name in the file, such as `blk.0.attn_q.weight`.
    public let name: String
    /// How its weights are stored.
    public let type: GGMLType
    /// The dimensions in weights, rows last: the file's, reversed.
    public let shape: [Int]
    /// The tensor's bytes in the file.
    public let region: FileRegion
}

/// `size`, or the next multiple of `alignment`.
func padded(_ size: Int, to alignment: Int) -> Int {
    (size + alignment - 1) / alignment * alignment
}
