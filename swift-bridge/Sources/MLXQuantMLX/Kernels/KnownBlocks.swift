import MLXQuantFormats

/// Blocks of a format with any codes under scales of middling size, and the weights that they are: the
/// same ones every time.
struct KnownBlocks {
    /// How many there are: a prime number, so that rows of them do not resemble each other.
    private static let count = 127
    /// The greatest weight of a block, from and to.
    private static let greatest: ClosedRange<Float> = 0x1p-4...0x1p4
    /// Blocks that are looked at, at most.
    private static let patience = 1 << 18

    private let format: WeightFormat
    private let wire: [UInt8]
    private let weights: [Float]

    /// Random blocks that ``MLXQuantFormats`` decodes to weights of middling size.
    ///
    /// - Throws: `FormatError` if the format cannot be decoded.
    init(_ format: WeightFormat) throws(FormatError) {
        self.format = format
        var random = SplitMix(state: 7)
        var (wire, weights): ([UInt8], [Float]) = ([], [])
        var looked = 0
        while weights.count < Self.count * format.blockSize {
            precondition(looked < Self.patience, "blocks of \(format.name)")
            let some = (0..<(256 * format.blockBytes)).map { _ in UInt8(random.next() % 256) }
            let decoded = try Self.decoded(format, some)
            for block in 0..<256 where weights.count < Self.count * format.blockSize {
                let range = (block * format.blockSize)..<((block + 1) * format.blockSize)
                let own = decoded[range]
                let most = own.reduce(0) { $1.isFinite ? max($0, abs($1)) : .infinity }
                guard Self.greatest.contains(most) else { continue }
                weights += own
                wire += some[(block * format.blockBytes)..<((block + 1) * format.blockBytes)]
            }
            looked += 256
        }
        (self.wire, self.weights) = (wire, weights)
    }

    /// Rows of so many blocks: their bytes, and their weights.
    func rows(_ rows: Int, blocks: Int) -> (wire: [UInt8], weights: [Float]) {
        var (bytes, floats): ([UInt8], [Float]) = ([], [])
        for index in 0..<(rows * blocks) {
            let block = index % Self.count
            bytes += wire[(block * format.blockBytes)..<((block + 1) * format.blockBytes)]
            floats += weights[(block * format.blockSize)..<((block + 1) * format.blockSize)]
        }
        return (bytes, floats)
    }

    private static func decoded(
        _ format: WeightFormat,
        _ wire: [UInt8]
    ) throws(FormatError) -> [Float] {
        let blocks = wire.count / format.blockBytes
        let found = wire.withUnsafeBytes { bytes in
            Result { () throws(FormatError) in
                let size = blocks * format.blockSize
                let out = UnsafeMutableBufferPointer<Float>.allocate(capacity: size)
                defer { out.deallocate() }
                try format.decode([bytes], blocks: blocks, into: out)
                return Array(out)
            }
        }
        return try found.get()
    }
}

/// Numbers that look like any others, the same ones every time (SplitMix64).
struct SplitMix {
    private(set) var state: UInt64

    init(state: UInt64) {
        self.state = state
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return (z ^ (z >> 31)) >> 24
    }
}
