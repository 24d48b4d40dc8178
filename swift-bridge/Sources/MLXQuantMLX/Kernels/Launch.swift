import MLXQuantFormats

/// The type of a product, and of what it multiplies.
enum FloatType: String, Sendable, CaseIterable {
    case float32 = "F32"
    case float16 = "F16"
    case bfloat16 = "BF16"

    /// Bytes of a number.
    var size: Int {
        self == .float32 ? 4 : 2
    }
}

/// A kernel and all that it is run with but for the arrays: `kernels/launch.py` in Swift, from shapes
/// alone, without MLX.
///
/// Which simdgroups sum up which parts (``split(_:rows:columns:)``) depends on the shape of the weights
/// alone, never on how many rows x has: a row of several has the bits that it has alone.
struct Launch: Hashable, Sendable {
    /// Threads along three axes.
    struct Extent: Hashable, Sendable {
        let x: Int
        let y: Int
        let z: Int

        /// The number along each axis.
        init(_ x: Int, _ y: Int, _ z: Int) {
            (self.x, self.y, self.z) = (x, y, z)
        }

        /// As MLX takes it.
        var tuple: (Int, Int, Int) {
            (x, y, z)
        }
    }

    /// The kernel.
    let kernel: Kernel
    /// The weights' format.
    let format: String
    /// Threads in all, as MLX counts them.
    let grid: Extent
    /// Threads of a threadgroup.
    let threadgroup: Extent
    /// Of the result.
    let shape: [Int]
    /// Of the result, and of x.
    let type: FloatType
}

extension Launch {
    /// Weights that one thread decodes, of every format.
    private static let part = 32
    /// An input of fewer elements would come in constant memory: ids are filled up to so many.
    static let least = 8
    /// Rows of x that matvec takes.
    static let rowsAtOnce = 8
    /// Threads of a threadgroup of dequantize, at most, and bytes that it reads: its core's cache.
    private static let (threads, cache) = (256, 8192)
    /// Rows of weights that a simdgroup of matvec has: more share x, fewer hold less in registers.
    private static let heights = ["Q2_K": 2, "Q3_K": 2, "Q4_K": 2, "Q5_K": 2]
    /// The same where x has several rows.
    private static let heightOfRows = 2
    /// With fewer simdgroups a GPU is not full, and K is split between some, this many at most.
    private static let (simdgroups, mostSplit) = (1024, 8)
    /// Rows of weights of a tile of matmul, and where there are few tiles.
    private static let (wide, narrow) = (64, 32)
    /// Formats that always have narrow ones: a part of a block lies on so many lines of the cache
    /// that with twice the rows they do not stay there until the block's next parts are read.
    private static let alwaysNarrow: Set = ["Q5_K", "Q6_K", "IQ3_S", "IQ2_S"]
    /// Both.
    static let widths = [wide, narrow]
    /// Threads of its threadgroup.
    private static let tileThreads = 128
    /// Threadgroups that fill a GPU of forty cores.
    private static let threadgroups = 128
    /// Experts that have fewer rows each get lower tiles.
    private static let (few, some) = (40.0, 384.0)
    /// Rows an expert that are worth decoding its weights into tiles.
    private static let worth = 4
    private static let limit = 1 << 31

    /// Decodes uint8 [n, bytes] of whole blocks → [n, k].
    static func dequantize(
        _ format: WeightFormat,
        wire: [Int],
        _ type: FloatType
    ) throws(FormatError) -> Launch {
        let blocks = try blocks(format, wire, matrices: false)
        return try decoding(.dequantize, format, (wire[0] * blocks, 1), (wire[0], blocks), type)
    }

    /// Decodes of the same the rows of ids uint32 [m] → [m, k].
    static func dequantizeRows(
        _ format: WeightFormat,
        wire: [Int],
        count: Int,
        _ type: FloatType
    ) throws(FormatError) -> Launch {
        let blocks = try blocks(format, wire, matrices: false)
        return try decoding(.dequantizeRows, format, (blocks, count), (count, blocks), type)
    }

    /// Multiplies x [m, k] by wire uint8 [n, bytes] → [m, n]: by matvec for few rows, by matmul for
    /// many, in tiles of ``widths`` rows of weights or of those that fit best.
    static func product(
        _ format: WeightFormat,
        x: [Int],
        wire: [Int],
        _ type: FloatType,
        width: Int? = nil
    ) throws(FormatError) -> Launch {
        let (m, n, k) = try sizes(format, x, wire, matrices: false)
        guard 1...rowsAtOnce ~= m else {
            let height = m <= 16 ? 16 : m <= 32 ? 32 : 64
            return try tiled(Kernel.matmul, format, m, n, height, type, width)
        }
        var rows = 1
        while rows < m {
            rows *= 2
        }
        var height = height(format)
        let split = split(format, rows: n, columns: k)
        if rows > 1 {
            height = min(height, heightOfRows)
        }
        let kernel = Kernel.matvec(rows: rows, height: height, split: split)
        let (grid, threads) = simdgroups(n, height, split, 1)
        return try checked(Launch(kernel, format, grid, threads, [m, n], type))
    }

    /// Multiplies row i of x [p, k] by matrix ids[i] of wire uint8 [e, n, bytes] → [p, n].
    ///
    /// Where ``gathersInTiles(pairs:matrices:)`` says so by tiles, which is fast for ids in order.
    static func gather(
        _ format: WeightFormat,
        x: [Int],
        wire: [Int],
        _ type: FloatType,
        width: Int? = nil
    ) throws(FormatError) -> Launch {
        let (p, n, k) = try sizes(format, x, wire, matrices: true)
        if gathersInTiles(pairs: p, matrices: wire[0]) {
            let each = Double(p) / Double(max(1, wire[0]))
            let height = each < few ? 16 : each < some ? 32 : 64
            return try tiled(Kernel.gatherMatmul, format, p, n, height, type, width)
        }
        let (height, split) = (height(format), split(format, rows: n, columns: k))
        let kernel = Kernel.gatherMatvec(height: height, split: split)
        let (grid, threads) = simdgroups(n, height, split, p)
        return try checked(Launch(kernel, format, grid, threads, [p, n], type))
    }

    /// Whether ``gather(_:x:wire:_:)`` takes tiles: then it is worth bringing ids in order.
    static func gathersInTiles(pairs: Int, matrices: Int) -> Bool {
        pairs > max(rowsAtOnce, worth * matrices)
    }

    /// Simdgroups that share the parts of a row of weights: a power of two, from 1 to 8.
    static func split(_ format: WeightFormat, rows n: Int, columns k: Int) -> Int {
        let count = ceiling(n, height(format))
        var split = 1
        while split < mostSplit, split * count < simdgroups, 2 * split * 32 * part <= k {
            split *= 2
        }
        return split
    }
}

extension Launch {
    private init(
        _ kernel: Kernel,
        _ format: WeightFormat,
        _ grid: Extent,
        _ threadgroup: Extent,
        _ shape: [Int],
        _ type: FloatType
    ) {
        self.kernel = kernel
        self.format = format.name
        self.grid = grid
        self.threadgroup = threadgroup
        self.shape = shape
        self.type = type
    }

    /// The launch, unless a GPU cannot count its threads.
    private static func checked(_ launch: Launch) throws(FormatError) -> Launch {
        let grid = launch.grid
        guard max(grid.x, grid.y, grid.z, launch.shape.max() ?? 0) < limit else {
            let threads = [grid.x, grid.y, grid.z]
            throw FormatError(
                .request,
                field: "\(launch.kernel.name) of \(launch.format)",
                reason:
                    "a result \(launch.shape) takes a grid of \(threads) threads; a GPU counts to 2^31"
            )
        }
        return launch
    }

    private static func ceiling(_ number: Int, _ divisor: Int) -> Int {
        (number + divisor - 1) / divisor
    }

    private static func height(_ format: WeightFormat) -> Int {
        heights[format.name] ?? 4
    }

    /// Blocks of a row of wire [n, bytes], or of matrices [e, n, bytes].
    private static func blocks(
        _ format: WeightFormat,
        _ wire: [Int],
        matrices: Bool
    ) throws(FormatError) -> Int {
        let bytes = wire.last ?? 0
        guard wire.count == (matrices ? 3 : 2), bytes % format.blockBytes == 0 else {
            let size = "\(format.blockSize) weights in \(format.blockBytes) bytes"
            throw FormatError(
                .request,
                field: "\(format.name) \(wire)",
                reason:
                    "\(matrices ? "[matrices, rows, bytes]" : "[rows, bytes]") of whole blocks of "
                    + "\(size) needed"
            )
        }
        return bytes / format.blockBytes
    }

    /// (m, n, k) of x [m, k] and wire [n, bytes] or [e, n, bytes].
    private static func sizes(
        _ format: WeightFormat,
        _ x: [Int],
        _ wire: [Int],
        matrices: Bool
    ) throws(FormatError) -> (m: Int, n: Int, k: Int) {
        let blocks = try blocks(format, wire, matrices: matrices)
        guard x.count == 2, x[1] == blocks * format.blockSize else {
            throw FormatError(
                .request,
                field: "x \(x)",
                reason: "\(format.name) \(wire) takes rows of \(blocks * format.blockSize) numbers"
            )
        }
        return (x[0], wire[wire.count - 2], x[1])
    }

    /// Grid and threadgroup of matvec.metal.
    private static func simdgroups(
        _ n: Int,
        _ height: Int,
        _ split: Int,
        _ pairs: Int
    ) -> (Extent, Extent) {
        let (threads, rows) = split == 1 ? (64, 2 * height) : (32 * split, height)
        return (Extent(threads * ceiling(n, rows), pairs, 1), Extent(threads, 1, 1))
    }

    /// A launch of matmul.metal or gather.metal, by tiles of at most so many rows of x.
    private static func tiled(
        _ kernel: (Int, Int, Int) -> Kernel,
        _ format: WeightFormat,
        _ m: Int,
        _ n: Int,
        _ most: Int,
        _ type: FloatType,
        _ asked: Int?
    ) throws(FormatError) -> Launch {
        // of float, higher tiles do not fit in a threadgroup's 32 KiB, nor narrow ones of 32 rows
        let height = min(most, 128 / type.size)
        let down = ceiling(m, height)
        let isNarrow =
            down * ceiling(n, wide) < threadgroups || alwaysNarrow.contains(format.name)
        var width = asked ?? (isNarrow ? narrow : wide)
        if type.size == 4, height == 32 {
            width = wide
        }
        let grid = Extent(tileThreads * ceiling(n, width), down, 1)
        let made = kernel(height, width, type.size)
        let threads = Extent(tileThreads, 1, 1)
        return try checked(Launch(made, format, grid, threads, [m, n], type))
    }

    /// The grid (parts, grid), for rows of so many blocks.
    private static func decoding(
        _ kernel: Kernel,
        _ format: WeightFormat,
        _ grid: (Int, Int),
        _ rows: (count: Int, blocks: Int),
        _ type: FloatType
    ) throws(FormatError) -> Launch {
        let parts = format.blockSize / part
        var blocks = threads / parts
        if blocks * format.blockBytes > cache {
            blocks /= 2
        }
        let threads = Extent(parts, max(1, min(blocks, grid.0)), 1)
        let shape = [rows.count, rows.blocks * format.blockSize]
        let extent = Extent(parts, grid.0, grid.1)
        return try checked(Launch(kernel, format, extent, threads, shape, type))
    }
}
