import MLXQuantFormats

/// Products with blocks of GGUF files, a block at a time.
protocol BlockProduct: Sendable {
    /// Weights of a block, a multiple of 16.
    static var weights: Int { get }
    /// Bytes of a block.
    static var bytes: Int { get }
    /// Partial sums of Σ w · x over a block, without what is the same for many weights.
    ///
    /// - Parameters:
    ///   - block: its bytes.
    ///   - x: activations in the order of the planes.
    ///   - sums: of sixteen activations each.
    ///   - low: what is the same for many weights is subtracted here. Lanes of a vector must all go
    ///     through the same, or the compiler takes them apart.
    /// - Returns: four sums, to be added up.
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector
}

/// Rows of blocks that have a product of their own. For more vectors than two, to decode a row once
/// for all costs less.
struct BlockRows: MatrixRows {
    /// Multiplies rows with one vector, in the order of the planes and its sums behind it.
    private typealias Loop =
        @Sendable (
            _ rows: Range<Int>,
            _ wire: UnsafeRawPointer,
            _ x: UnsafePointer<Float>,
            _ columns: Int,
            _ out: UnsafeMutablePointer<Float>
        ) -> Void

    private let weight: Weight
    private let decoded: DecodedRows
    private let loop: Loop

    init<Product: BlockProduct>(
        _ weight: Weight,
        _ decoded: DecodedRows,
        _ product: Product.Type
    ) {
        precondition(weight.format.blockSize == Product.weights)
        precondition(weight.format.blockBytes == Product.bytes)
        (self.weight, self.decoded) = (weight, decoded)
        // A closure, so that the loop is compiled for each product, and the product into it.
        loop = { rows, wire, x, columns, out in
            let blocks = columns / Product.weights
            let sums = x + columns
            for row in rows {
                var block = wire + row &* blocks &* Product.bytes
                var total = Planes.Vector.zero
                var low: Float = 0
                for index in 0..<blocks {
                    total += Product.dot(
                        block,
                        x + index &* Product.weights,
                        sums + index &* (Product.weights / 16),
                        &low
                    )
                    block += Product.bytes
                }
                out[row] = total.sum() + low
            }
        }
    }

    func decode(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>) {
        decoded.decode(rows, into: out)
    }

    /// For each vector, its values in the order of the planes, then their sums.
    func prepare(_ x: UnsafePointer<Float>, _ count: Int) -> [Float] {
        if count > 2 { return [] }
        let columns = weight.columns
        let width = columns + columns / 16
        return [Float](unsafeUninitializedCapacity: count * width) { buffer, filled in
            filled = count * width
            guard let out = buffer.baseAddress else { return }
            for vector in 0..<count {
                let (from, to) = (x + vector * columns, out + vector * width)
                Planes.order(from, columns, codes: 1, into: to)
                Planes.sums(from, columns, of: 16, into: to + columns)
            }
        }
    }

    func multiply(
        _ rows: Range<Int>,
        _ activations: Activations,
        into out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        if activations.count > 2 {
            multiplyDecoded(rows, activations, into: out, stride: stride)
            return
        }
        let columns = weight.columns
        weight.parts[0].withUnsafeBytes { bytes in
            activations.prepared.withUnsafeBufferPointer { prepared in
                guard let base = bytes.baseAddress, let start = prepared.baseAddress else { return }
                for vector in 0..<activations.count {
                    let x = start + vector * (columns + columns / 16)
                    loop(rows, base, x, columns, out + vector * stride)
                }
            }
        }
    }
}

@inline(__always)
private func half(_ pointer: UnsafeRawPointer) -> Float {
    halfToFloat(pointer.loadUnaligned(as: UInt16.self))
}

@inline(__always)
private func byte(_ pointer: UnsafeRawPointer, _ offset: Int) -> UInt8 {
    pointer.load(fromByteOffset: offset, as: UInt8.self)
}

/// Layout: Q8_0.swift of MLXQuantFormats, and so for those that follow.
enum Q8_0Product: BlockProduct {
    static var weights: Int { 32 }
    static var bytes: Int { 34 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let one = Planes.words(block + 2) ^ 0x8080_8080
        let other = Planes.words(block + 18) ^ 0x8080_8080
        let sum = Planes.dot(one, x) + Planes.dot(other, x + 16)
        let scale = half(block)
        low -= scale * (128 * (sums[0] + sums[1]))
        return sum * scale
    }
}

enum Q4_0Product: BlockProduct {
    static var weights: Int { 32 }
    static var bytes: Int { 18 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let codes = Planes.words(block + 2)
        let sum = Planes.dot(Planes.low(codes), x) + Planes.dot(Planes.high(codes), x + 16)
        let scale = half(block)
        low -= scale * (8 * (sums[0] + sums[1]))
        return sum * scale
    }
}

enum MXFP4Product: BlockProduct {
    static var weights: Int { 32 }
    static var bytes: Int { 17 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let half = halfPowerOfTwo(byte(block, 0))
        let codes = Planes.words(block + 1)
        let sum =
            Planes.dot(Planes.twiceLevels(Planes.low(codes)), x)
            + Planes.dot(Planes.twiceLevels(Planes.high(codes)), x + 16)
        low -= half * (Planes.levelOffset * (sums[0] + sums[1]))
        return sum * half
    }
}

enum Q4_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 144 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let scales = SixBitScales(block + 4)
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<4 {
            let one = Planes.words(block + (16 &+ 32 &* run))
            let other = Planes.words(block + (32 &+ 32 &* run))
            let at = x + 64 &* run
            let even = Planes.dot(Planes.low(one), at) + Planes.dot(Planes.low(other), at + 16)
            let odd =
                Planes.dot(Planes.high(one), at + 32) + Planes.dot(Planes.high(other), at + 48)
            total += even * scales.scale(2 &* run)
            total += odd * scales.scale(2 &* run &+ 1)
            let sum = sums + 4 &* run
            lows += scales.min(2 &* run) * (sum[0] + sum[1])
            lows += scales.min(2 &* run &+ 1) * (sum[2] + sum[3])
        }
        low -= half(block + 2) * lows
        return total * half(block)
    }
}

enum Q5_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 176 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let scales = SixBitScales(block + 4)
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<4 {
            for side in 0..<2 {
                let codes = Planes.words(block + (48 &+ 32 &* run &+ 16 &* side))
                let top = Planes.words(block + (16 &+ 16 &* side))
                let shift = UInt32(truncatingIfNeeded: 2 &* run)
                // A bit in its place is sixteen times the bit: a product of its own is exact.
                let at = x + (64 &* run &+ 16 &* side)
                let sum = sums + (4 &* run &+ side)
                let even =
                    Planes.dot(Planes.low(codes), at)
                    + Planes.dot(Planes.bit(top, shift), at) * 16
                let odd =
                    Planes.dot(Planes.high(codes), at + 32)
                    + Planes.dot(Planes.bit(top, shift &+ 1), at + 32) * 16
                total += even * scales.scale(2 &* run)
                total += odd * scales.scale(2 &* run &+ 1)
                lows += scales.min(2 &* run) * sum[0]
                lows += scales.min(2 &* run &+ 1) * sum[2]
            }
        }
        low -= half(block + 2) * lows
        return total * half(block)
    }
}

enum Q6_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 210 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<2 {
            for side in 0..<2 {
                let one = Planes.words(block + (64 &* run &+ 16 &* side))
                let other = Planes.words(block + (64 &* run &+ 32 &+ 16 &* side))
                let top = Planes.words(block + (128 &+ 32 &* run &+ 16 &* side))
                let at = x + (128 &* run &+ 16 &* side)
                let scale = block + (192 &+ 8 &* run &+ side)
                let sum = sums + (8 &* run &+ side)
                for plane in 0..<4 {
                    let codes = plane % 2 == 0 ? one : other
                    let under = plane < 2 ? Planes.low(codes) : Planes.high(codes)
                    let over = Planes.pair(top, from: UInt32(truncatingIfNeeded: 2 &* plane))
                    let from = at + 32 &* plane
                    let dot = Planes.dot(under, from) + Planes.dot(over, from) * 16
                    let factor = signed(scale, 2 &* plane)
                    total += dot * factor
                    lows += factor * sum[2 &* plane]
                }
            }
        }
        let scale = half(block + 208)
        low -= scale * (32 * lows)
        return total * scale
    }

    @inline(__always)
    private static func signed(_ pointer: UnsafeRawPointer, _ offset: Int) -> Float {
        Float(Int32(pointer.load(fromByteOffset: offset, as: Int8.self)))
    }
}

enum Q2_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 84 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<2 {
            for side in 0..<2 {
                let codes = Planes.words(block + (16 &+ 32 &* run &+ 16 &* side))
                for plane in 0..<4 {
                    let subBlock = 8 &* run &+ 2 &* plane &+ side
                    let packed = byte(block, subBlock)
                    let shift = UInt32(truncatingIfNeeded: 2 &* plane)
                    let sum = Planes.dot(Planes.pair(codes, from: shift), x + 16 &* subBlock)
                    total += sum * Float(Int32(packed & 15))
                    lows += Float(Int32(packed &>> 4)) * sums[subBlock]
                }
            }
        }
        low -= half(block + 82) * lows
        return total * half(block + 80)
    }
}

enum Q3_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 110 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>,
        _ low: inout Float
    ) -> Planes.Vector {
        let lowScales = (block + 96).loadUnaligned(as: UInt64.self)
        let highScales = (block + 104).loadUnaligned(as: UInt32.self)
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<2 {
            for side in 0..<2 {
                let codes = Planes.words(block + (32 &+ 32 &* run &+ 16 &* side))
                let mask = Planes.words(block + 16 &* side)
                for plane in 0..<4 {
                    let subBlock = 8 &* run &+ 2 &* plane &+ side
                    let bits = lowScales &>> UInt64(8 &* (subBlock % 8) &+ 4 &* run) & 15
                    let top = highScales &>> UInt32(8 &* (subBlock % 4) &+ 2 &* (subBlock / 4)) & 3
                    let scale = Float(Int32(truncatingIfNeeded: bits | UInt64(top) &<< 4) &- 32)
                    let shift = UInt32(truncatingIfNeeded: 2 &* plane)
                    let bit = Planes.bit(mask, UInt32(truncatingIfNeeded: 4 &* run &+ plane))
                    let code = Planes.pair(codes, from: shift) &+ bit &+ bit &+ bit &+ bit
                    total += Planes.dot(code, x + 16 &* subBlock) * scale
                    lows += scale * sums[subBlock]
                }
            }
        }
        let scale = half(block + 108)
        low -= scale * (4 * lows)
        return total * scale
    }
}

/// The 6-bit scales and mins of Q4_K and Q5_K: layout in KScales.swift of MLXQuantFormats.
private struct SixBitScales {
    private let scales: UInt64
    private let mins: UInt64

    @inline(__always)
    init(_ at: UnsafeRawPointer) {
        let first = at.loadUnaligned(as: UInt32.self)
        let second = at.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
        let third = at.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
        let upperScales = third & 0x0F0F_0F0F | first &>> 2 & 0x3030_3030
        let upperMins = third &>> 4 & 0x0F0F_0F0F | second &>> 2 & 0x3030_3030
        scales = UInt64(first & 0x3F3F_3F3F) | UInt64(upperScales) &<< 32
        mins = UInt64(second & 0x3F3F_3F3F) | UInt64(upperMins) &<< 32
    }

    @inline(__always)
    func scale(_ subBlock: Int) -> Float { Self.float(scales, subBlock) }

    @inline(__always)
    func min(_ subBlock: Int) -> Float { Self.float(mins, subBlock) }

    @inline(__always)
    private static func float(_ packed: UInt64, _ subBlock: Int) -> Float {
        let shift = UInt64(truncatingIfNeeded: 8 &* subBlock)
        return Float(Int32(truncatingIfNeeded: packed &>> shift & 63))
    }
}
