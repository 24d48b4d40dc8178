/// What the bytes of a weight mean: how many weights share a block, which arrays hold it, and how it
/// is decoded.
///
///     rows   [n, k]          k a multiple of blockSize
///     wire   one array a part, each n · k / blockSize · part.blockBytes bytes, a row's blocks one
///            after the other
///
/// Decoding gives the bits that `mlxquant` gives in Python; of NaN, only that it is one.
public struct WeightFormat: Sendable {
    /// One stored array of a format.
    public struct Part: Sendable, Hashable {
        /// The last component of the array's name in an MLX folder: `weight`, `scales`, `biases`.
        public let suffix: String
        /// Of its elements; `u8` for blocks.
        public let type: ElementType
        /// Bytes that one block takes in this array.
        public let blockBytes: Int
    }

    /// `Q4_K`, `affine4-g64`, `mxfp4`, `BF16`, …: what `mlxquant` calls it.
    public let name: String
    /// Width of a code.
    public let bits: Int
    /// Consecutive weights of a row that share a block (MLX: the group size); 1 for plain numbers.
    public let blockSize: Int
    /// The stored arrays, in the order in which decoding takes them.
    public let parts: [Part]

    let decoder: Decoder?

    /// Bytes of one block over all parts.
    public var blockBytes: Int {
        parts.reduce(0) { $0 + $1.blockBytes }
    }

    /// Bits per weight, scales included.
    public var bitsPerWeight: Double {
        Double(8 * blockBytes) / Double(blockSize)
    }

    /// Whether weights of this format can be decoded: not those of element types that are no numbers
    /// (`BOOL`, `U32`, …), and none of `Q8_1`, which is for activations.
    public var isDecodable: Bool {
        decoder != nil
    }
}

extension WeightFormat: Hashable {
    /// Two formats are equal if their names are, and the types of their parts.
    public static func == (left: WeightFormat, right: WeightFormat) -> Bool {
        left.name == right.name && left.parts == right.parts
    }

    /// As equality.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(name)
        hasher.combine(parts)
    }
}

extension WeightFormat {
    /// Decodes blocks that lie one after the other.
    ///
    /// - Parameters:
    ///   - wire: the bytes of each part, in the order of ``parts``; each begins with the first block
    ///     and may go on behind the last.
    ///   - blocks: how many to decode.
    ///   - out: where the weights go, `blocks · blockSize` of them.
    /// - Throws: ``FormatError`` if a part or `out` is too small, or the format cannot be decoded.
    public func decode(
        _ wire: [UnsafeRawBufferPointer],
        blocks: Int,
        into out: UnsafeMutableBufferPointer<Float>
    ) throws(FormatError) {
        let (decoder, wire) = try check(wire, blocks, room: out.count)
        if let to = out.baseAddress, blocks > 0 {
            decoder.floats(wire, blocks, to)
        }
    }

    /// Decodes blocks to float16, each weight rounded to nearest, ties to even, from its value as
    /// `Float`; beyond 65,504 infinite.
    ///
    /// - Parameters:
    ///   - wire: as for the decoding to `Float`.
    ///   - blocks: how many to decode.
    ///   - out: where the bits of the weights go, `blocks · blockSize` of them.
    /// - Throws: ``FormatError`` as the decoding to `Float`.
    public func decode(
        _ wire: [UnsafeRawBufferPointer],
        blocks: Int,
        intoHalfBits out: UnsafeMutableBufferPointer<UInt16>
    ) throws(FormatError) {
        let (decoder, wire) = try check(wire, blocks, room: out.count)
        if let to = out.baseAddress, blocks > 0 {
            decoder.halves(wire, blocks, to)
        }
    }

    private func check(
        _ wire: [UnsafeRawBufferPointer],
        _ blocks: Int,
        room: Int
    ) throws(FormatError) -> (Decoder, Wire) {
        func fail(_ reason: String) -> FormatError {
            FormatError(.request, field: name, reason: reason)
        }
        guard let decoder else { throw fail("weights of this type cannot be decoded") }
        guard wire.count == parts.count else {
            let wanted = parts.map(\.suffix).joined(separator: ", ")
            throw fail("\(wire.count) arrays given, \(wanted) needed")
        }
        let (weights, overflow) = blocks.multipliedReportingOverflow(by: blockSize)
        guard blocks >= 0, !overflow, weights <= room else {
            throw fail("\(blocks) blocks of \(blockSize) weights, but room for \(room)")
        }
        for (part, bytes) in zip(parts, wire) {
            let (needed, overflow) = blocks.multipliedReportingOverflow(by: part.blockBytes)
            guard !overflow, bytes.count >= needed else {
                let reason = "\(part.suffix) has \(bytes.count) bytes, \(blocks) blocks of"
                throw fail("\(reason) \(part.blockBytes) needed")
            }
        }
        return (decoder, Wire(wire))
    }
}

/// Where the blocks of a format's parts begin.
struct Wire {
    /// Codes, or whole blocks.
    private(set) var weight: UnsafeRawPointer
    /// One a block; the same as `weight` where the format has none.
    private(set) var scales: UnsafeRawPointer
    /// One a block; the same as `weight` where the format has none.
    private(set) var biases: UnsafeRawPointer

    /// Goes on by a group of so many bytes.
    @inline(__always)
    mutating func advance(_ codes: Int, _ scale: Int) {
        weight += codes
        scales += scale
        biases += scale
    }

    /// The beginnings of buffers, of which there is one at least.
    init(_ parts: [UnsafeRawBufferPointer]) {
        let bases = parts.map { $0.baseAddress ?? Wire.nothing }
        weight = bases[0]
        scales = bases.count > 1 ? bases[1] : bases[0]
        biases = bases.count > 2 ? bases[2] : bases[0]
    }

    /// Where an array of no bytes lies.
    nonisolated(unsafe) private static let nothing = UnsafeRawPointer(
        UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 64)
    )
}

/// A format's loops over blocks, which trust their arguments.
struct Decoder: Sendable {
    let floats: @Sendable (Wire, Int, UnsafeMutablePointer<Float>) -> Void
    let halves: @Sendable (Wire, Int, UnsafeMutablePointer<UInt16>) -> Void
}
