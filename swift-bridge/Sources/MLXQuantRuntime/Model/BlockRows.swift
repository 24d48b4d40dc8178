import MLXQuantFormats

/// Products with blocks of GGUF files, a block at a time.
protocol BlockProduct: Sendable {
    /// Weights of a block, a multiple of 16.
    static var weights: Int { get }
    /// Bytes of a block.
    static var bytes: Int { get }
    /// Partial sums of Σ w · x over a block.
    ///
    /// - Parameters:
    ///   - block: its bytes.
    ///   - x: activations in the order of the planes.
    ///   - sums: of sixteen activations each.
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
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
                for index in 0..<blocks {
                    total += Product.dot(
                        block,
                        x + index &* Product.weights,
                        sums + index &* (Product.weights / 16)
                    )
                    block += Product.bytes
                }
                out[row] = total.sum()
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
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let sum =
            Planes.signedDot(Planes.bytes(block + 2), x)
            + Planes.signedDot(Planes.bytes(block + 18), x + 16)
        return sum * (half(block) * Planes.signedScale)
    }
}

enum Q4_0Product: BlockProduct {
    static var weights: Int { 32 }
    static var bytes: Int { 18 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let codes = Planes.bytes(block + 2)
        let eight = Planes.Bytes(repeating: 8)
        let sum =
            Planes.signedDot((codes & 15) &- eight, x)
            + Planes.signedDot((codes &>> 4) &- eight, x + 16)
        return sum * (half(block) * Planes.signedScale)
    }
}

enum MXFP4Product: BlockProduct {
    static var weights: Int { 32 }
    static var bytes: Int { 17 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let e = UInt32(byte(block, 0))
        let half = Float(bitPattern: e < 2 ? 0x20_0000 &<< e : (e &- 1) &<< 23)
        let codes = Planes.bytes(block + 1)
        let sum =
            Planes.signedDot(Planes.twiceLevels(codes & 15), x)
            + Planes.signedDot(Planes.twiceLevels(codes &>> 4), x + 16)
        return sum * Planes.signedScale * half
    }
}

enum Q4_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 144 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let (d, dmin) = (half(block), half(block + 2))
        let scales = SixBitScales(block + 4)
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<4 {
            let (first, second) = (2 &* run, 2 &* run &+ 1)
            let one = Planes.bytes(block + (16 &+ 32 &* run))
            let other = Planes.bytes(block + (32 &+ 32 &* run))
            let at = x + 64 &* run
            let low = Planes.dot(one & 15, at) + Planes.dot(other & 15, at + 16)
            let high = Planes.dot(one &>> 4, at + 32) + Planes.dot(other &>> 4, at + 48)
            total += low * scales.scale(first) + high * scales.scale(second)
            let sum = sums + 4 &* run
            lows += scales.min(first) * (sum[0] + sum[1])
            lows += scales.min(second) * (sum[2] + sum[3])
        }
        return total * d - Planes.Vector(dmin * lows, 0, 0, 0)
    }
}

enum Q5_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 176 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let (d, dmin) = (half(block), half(block + 2))
        let scales = SixBitScales(block + 4)
        var total = Planes.Vector.zero
        var lows: Float = 0
        for subBlock in 0..<8 {
            let (run, isHigh) = (subBlock / 2, subBlock % 2 == 1)
            var sum = Planes.Vector.zero
            for side in 0..<2 {
                let codes = Planes.bytes(block + (48 &+ 32 &* run &+ 16 &* side))
                let top = Planes.bytes(block + (16 &+ 16 &* side))
                let shift = Planes.Bytes(repeating: UInt8(truncatingIfNeeded: subBlock))
                let low = isHigh ? codes &>> 4 : codes & 15
                let code = low | (top &>> shift & 1) &<< 4
                sum += Planes.dot(code, x + (32 &* subBlock &+ 16 &* side))
            }
            total += sum * scales.scale(subBlock)
            lows += scales.min(subBlock) * (sums[2 &* subBlock] + sums[2 &* subBlock &+ 1])
        }
        return total * d - Planes.Vector(dmin * lows, 0, 0, 0)
    }
}

enum Q6_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 210 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        var total = Planes.Vector.zero
        for run in 0..<2 {
            for side in 0..<2 {
                let one = Planes.bytes(block + (64 &* run &+ 16 &* side))
                let other = Planes.bytes(block + (64 &* run &+ 32 &+ 16 &* side))
                let top = Planes.bytes(block + (128 &+ 32 &* run &+ 16 &* side))
                let codes = (
                    (one & 15) | (top & 3) &<< 4,
                    (other & 15) | (top & 12) &<< 2,
                    (one &>> 4) | (top & 48),
                    (other &>> 4) | (top & 192) &>> 2
                )
                let thirtyTwo = Planes.Bytes(repeating: 32)
                let at = x + (128 &* run &+ 16 &* side)
                let scale = block + (192 &+ 8 &* run &+ side)
                total += Planes.signedDot(codes.0 &- thirtyTwo, at) * signed(scale, 0)
                total += Planes.signedDot(codes.1 &- thirtyTwo, at + 32) * signed(scale, 2)
                total += Planes.signedDot(codes.2 &- thirtyTwo, at + 64) * signed(scale, 4)
                total += Planes.signedDot(codes.3 &- thirtyTwo, at + 96) * signed(scale, 6)
            }
        }
        return total * (half(block + 208) * Planes.signedScale)
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
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        var total = Planes.Vector.zero
        var lows: Float = 0
        for run in 0..<2 {
            for side in 0..<2 {
                let codes = Planes.bytes(block + (16 &+ 32 &* run &+ 16 &* side))
                for plane in 0..<4 {
                    let subBlock = 8 &* run &+ 2 &* plane &+ side
                    let packed = byte(block, subBlock)
                    let shift = Planes.Bytes(repeating: UInt8(truncatingIfNeeded: 2 &* plane))
                    let sum = Planes.dot(codes &>> shift & 3, x + 16 &* subBlock)
                    total += sum * Float(Int32(packed & 15))
                    lows += Float(Int32(packed &>> 4)) * sums[subBlock]
                }
            }
        }
        let (d, dmin) = (half(block + 80), half(block + 82))
        return total * d - Planes.Vector(dmin * lows, 0, 0, 0)
    }
}

enum Q3_KProduct: BlockProduct {
    static var weights: Int { 256 }
    static var bytes: Int { 110 }

    @inline(__always)
    static func dot(
        _ block: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ sums: UnsafePointer<Float>
    ) -> Planes.Vector {
        let lows = (block + 96).loadUnaligned(as: UInt64.self)
        let highs = (block + 104).loadUnaligned(as: UInt32.self)
        let four = Planes.Bytes(repeating: 4)
        var total = Planes.Vector.zero
        for run in 0..<2 {
            for side in 0..<2 {
                let codes = Planes.bytes(block + (32 &+ 32 &* run &+ 16 &* side))
                let mask = Planes.bytes(block + 16 &* side)
                for plane in 0..<4 {
                    let subBlock = 8 &* run &+ 2 &* plane &+ side
                    let low = lows &>> UInt64(8 &* (subBlock % 8) &+ 4 &* run) & 15
                    let high = highs &>> UInt32(8 &* (subBlock % 4) &+ 2 &* (subBlock / 4)) & 3
                    let scale = Int32(truncatingIfNeeded: low | UInt64(high) &<< 4) &- 32
                    let shift = Planes.Bytes(repeating: UInt8(truncatingIfNeeded: 2 &* plane))
                    let bit = Planes.Bytes(
                        repeating: UInt8(truncatingIfNeeded: 4 &* run &+ plane)
                    )
                    let code = (codes &>> shift & 3) | (mask &>> bit & 1) &<< 2
                    total += Planes.signedDot(code &- four, x + 16 &* subBlock) * Float(scale)
                }
            }
        }
        return total * (half(block + 108) * Planes.signedScale)
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
