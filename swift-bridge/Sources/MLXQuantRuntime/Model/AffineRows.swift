import MLXQuantFormats

/// MLX's affine format: w = scale · code + bias for each group of a row.
///
/// A group of a row and a vector is `scale · Σ code · x + bias · Σ x`; the sums of x are the same for
/// all rows. Scales and biases are float32 here whatever they are on disk: exact, and half a bit a
/// weight for groups of 64.
struct AffineRows: MatrixRows {
    private let weight: Weight
    private let bits: Int
    private let groupSize: Int
    private let columns: Int
    private let scales: [Float]
    private let biases: [Float]

    /// Nil where the weight is in another format.
    init?(_ weight: Weight) {
        guard weight.format.name.hasPrefix("affine"), weight.format.parts.count == 3 else {
            return nil
        }
        self.weight = weight
        bits = weight.format.bits
        groupSize = weight.format.blockSize
        columns = weight.columns
        scales = Self.floats(weight.parts[1], weight.format.parts[1].type)
        biases = Self.floats(weight.parts[2], weight.format.parts[2].type)
    }

    private static func floats(_ region: FileRegion, _ type: ElementType) -> [Float] {
        region.withUnsafeBytes { bytes in
            let count = bytes.count * 8 / type.bits
            return (0..<count).map { index in
                switch type {
                case .f32:
                    return Float(
                        bitPattern: bytes.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)
                    )
                case .f16:
                    return halfToFloat(
                        bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
                    )
                default:
                    let bits = bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self)
                    return Float(bitPattern: UInt32(bits) << 16)
                }
            }
        }
    }

    /// The sum of each group of each vector.
    func prepare(_ x: UnsafePointer<Float>, _ count: Int) -> [Float] {
        (0..<(count * columns / groupSize)).map { group in
            let start = x + group * groupSize
            var sum = Kernels.Vector.zero
            for at in stride(from: 0, to: groupSize, by: 8) { sum += Kernels.load(start + at) }
            return sum.sum()
        }
    }

    func decode(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>) {
        let groups = columns / groupSize
        weight.parts[0].withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            for row in rows {
                let to = out + (row - rows.lowerBound) * columns
                unpack(base + row * columns * bits / 8, to)
                for group in 0..<groups {
                    let scale = scales[row * groups + group]
                    let bias = biases[row * groups + group]
                    let start = to + group * groupSize
                    for index in 0..<groupSize { start[index] = start[index] * scale + bias }
                }
            }
        }
    }

    /// The codes of a row as numbers. They are a stream of bits, low bits first.
    private func unpack(_ codes: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let bytes = codes.assumingMemoryBound(to: UInt8.self)
        switch bits {
        case 4:
            for index in 0..<(columns / 2) {
                out[2 * index] = Float(bytes[index] & 15)
                out[2 * index + 1] = Float(bytes[index] >> 4)
            }
        case 8:
            for index in 0..<columns { out[index] = Float(bytes[index]) }
        default:
            let mask = UInt32(1) << UInt32(bits) - 1
            for index in 0..<columns {
                let place = index * bits
                let shift = UInt32(place & 7)
                var word = UInt32(bytes[place >> 3])
                if Int(shift) + bits > 8 { word |= UInt32(bytes[place >> 3 + 1]) << 8 }
                out[index] = Float(word >> shift & mask)
            }
        }
    }

    func multiply(
        _ rows: Range<Int>,
        _ activations: Activations,
        into out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        guard activations.count <= 2, bits == 4 || bits == 8 else {
            multiplyDecoded(rows, activations, into: out, stride: stride)
            return
        }
        let groups = columns / groupSize
        weight.parts[0].withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            let rowBytes = columns * bits / 8
            for vector in 0..<activations.count {
                let x = activations.x + vector * columns
                for row in rows {
                    var codes = base + row * rowBytes
                    var total: Float = 0
                    for group in 0..<groups {
                        let start = x + group * groupSize
                        let sum =
                            bits == 4
                            ? Self.dot4Bits(codes, start, groupSize)
                            : Self.dot8Bits(codes, start, groupSize)
                        let at = row * groups + group
                        total += scales[at] * sum
                        total += biases[at] * activations.sums[vector * groups + group]
                        codes += groupSize * bits / 8
                    }
                    out[vector * stride + row] = total
                }
            }
        }
    }

    /// Σ code · x of a group of 4-bit codes, eight to a word.
    @inline(__always)
    private static func dot4Bits(
        _ codes: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ count: Int
    ) -> Float {
        var (one, two) = (Kernels.Vector.zero, Kernels.Vector.zero)
        let shifts = SIMD8<UInt32>(0, 4, 8, 12, 16, 20, 24, 28)
        var at = 0
        while at < count {
            let first = codes.loadUnaligned(fromByteOffset: at / 2, as: UInt32.self)
            let second = codes.loadUnaligned(fromByteOffset: at / 2 + 4, as: UInt32.self)
            let low = (SIMD8(repeating: first) &>> shifts) & 15
            let high = (SIMD8(repeating: second) &>> shifts) & 15
            one += Kernels.Vector(SIMD8<Int32>(truncatingIfNeeded: low)) * Kernels.load(x + at)
            two += Kernels.Vector(SIMD8<Int32>(truncatingIfNeeded: high)) * Kernels.load(x + at + 8)
            at &+= 16
        }
        return (one + two).sum()
    }

    /// Σ code · x of a group of 8-bit codes.
    @inline(__always)
    private static func dot8Bits(
        _ codes: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ count: Int
    ) -> Float {
        var (one, two) = (Kernels.Vector.zero, Kernels.Vector.zero)
        var at = 0
        while at < count {
            let first = codes.loadUnaligned(fromByteOffset: at, as: SIMD8<UInt8>.self)
            let second = codes.loadUnaligned(fromByteOffset: at + 8, as: SIMD8<UInt8>.self)
            one += Kernels.Vector(SIMD8<Int32>(truncatingIfNeeded: first)) * Kernels.load(x + at)
            two +=
                Kernels.Vector(SIMD8<Int32>(truncatingIfNeeded: second)) * Kernels.load(x + at + 8)
            at &+= 16
        }
        return (one + two).sum()
    }
}

/// IEEE 754 half precision, exactly.
func halfToFloat(_ bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) << 16
    let rest = UInt32(bits & 0x7FFF)
    if rest >= 0x7C00 { return Float(bitPattern: sign | 0x7F80_0000 | (rest & 0x3FF) << 13) }
    // Shifted into place, the exponent is 112 too small; a product with 2^112 puts it right, and
    // subnormals with it.
    let value = Float(bitPattern: rest << 13) * Float(bitPattern: 239 << 23)
    return Float(bitPattern: value.bitPattern | sign)
}
