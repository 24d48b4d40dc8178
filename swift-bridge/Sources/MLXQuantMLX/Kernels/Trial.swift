import MLXQuantFormats

/// A small launch of a kernel that a layer is going to use, to try the kernel with weights whose
/// products are known.
///
/// It is made by the same functions of ``Launch`` as every other, of shapes that lead to the same
/// kernel and leave tails of rows, columns and tiles.
struct Trial: Sendable {
    /// What is multiplied with what.
    enum Call: Sendable {
        /// Rows of weights are looked up.
        case rows
        /// One matrix.
        case product
        /// A matrix for each row of x.
        case gather
    }

    let call: Call
    let launch: Launch
    let format: WeightFormat
    /// The shape of x; of `rows` how many are looked up.
    let x: [Int]
    /// The shape of the weights.
    let wire: [Int]

    /// What is tried: two trials with the same are one.
    struct Key: Hashable {
        let kernel: Kernel
        let format: String
        let type: FloatType
    }

    var key: Key {
        Key(kernel: launch.kernel, format: launch.format, type: launch.type)
    }
}

extension Trial {
    /// Columns for which K is split between 1, 2, 4 and 8 simdgroups, of few rows.
    private static let columns = [1: 1280, 2: 2304, 4: 4352, 8: 8448]
    /// Rows of weights, and of a tile.
    private static let (few, tile) = (19, 70)

    /// Of every kernel that products with a matrix of these bytes may take, whatever rows x has.
    ///
    /// - Parameters:
    ///   - format: of the weights.
    ///   - wire: uint8 [n, bytes], or [matrices, n, bytes] of experts.
    ///   - type: of x.
    ///   - looksUp: whether rows are looked up too, as an embedding's are.
    /// - Returns: the trials; of some the kernel is the same.
    /// - Throws: `FormatError` if the bytes are no whole blocks.
    static func all(
        _ format: WeightFormat,
        wire: [Int],
        _ type: FloatType,
        looksUp: Bool = false
    ) throws(FormatError) -> [Trial] {
        let isGather = wire.count == 3
        let (n, k) = (wire[wire.count - 2], width(format, wire[wire.count - 1]))
        let split = Launch.split(format, rows: n, columns: k)
        var found: [Trial] = []
        if looksUp {
            let small = [few, bytes(format, columns[1] ?? 0)]
            let launch = try Launch.dequantizeRows(format, wire: small, count: 9, type)
            found.append(Trial(call: .rows, launch: launch, format: format, x: [9], wire: small))
        }
        let long = columns[split] ?? 0
        let (rows, tiles) = isGather ? ([9], [61, 151, 401]) : ([1, 2, 3, 7], [13, 29, 75])
        for m in rows {
            let small = [few, bytes(format, long)]
            try found.append(trial(format, [m, long], isGather ? [3] + small : small, type, nil))
        }
        let short = 512 + format.blockSize
        for m in tiles {
            let small = [tile, bytes(format, short)]
            // 401 rows of one matrix are what takes the highest tiles
            let matrices = isGather ? [m < 401 ? 3 : 1] : []
            for width in Launch.widths {
                try found.append(trial(format, [m, short], matrices + small, type, width))
            }
        }
        return found
    }

    private static func trial(
        _ format: WeightFormat,
        _ x: [Int],
        _ wire: [Int],
        _ type: FloatType,
        _ width: Int?
    ) throws(FormatError) -> Trial {
        if wire.count == 3 {
            let launch = try Launch.gather(format, x: x, wire: wire, type, width: width)
            return Trial(call: .gather, launch: launch, format: format, x: x, wire: wire)
        }
        let launch = try Launch.product(format, x: x, wire: wire, type, width: width)
        return Trial(call: .product, launch: launch, format: format, x: x, wire: wire)
    }

    private static func bytes(_ format: WeightFormat, _ columns: Int) -> Int {
        columns / format.blockSize * format.blockBytes
    }

    private static func width(_ format: WeightFormat, _ bytes: Int) -> Int {
        bytes / format.blockBytes * format.blockSize
    }
}
