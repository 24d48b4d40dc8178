import MLXQuantFormats

/// MLX's formats with a code a weight, and numbers that a group of a row shares:
///
///     affine   w = scale · code + bias
///     mxfp4    w = 2^(e - 127) · level[code]
///
/// A group of a row and a vector is `scale · Σ code · x + bias · Σ x`; the sums of x are the same for
/// all rows. Scales and biases are float32 here whatever they are on disk: exact, and half a bit a
/// weight for groups of 64.
struct GroupRows: MatrixRows {
    private let weight: Weight
    private let bits: Int
    private let groupSize: Int
    private let columns: Int
    /// Codes are those of E2M1, computed with as twice their levels.
    private let isTwiceLevels: Bool
    private let scales: [Float]
    private let biases: [Float]

    /// Nil where the weight is in another format.
    init?(_ weight: Weight) {
        let format = weight.format
        let isAffine = format.name.hasPrefix("affine") && format.parts.count == 3
        isTwiceLevels = format.name == "mxfp4" && format.parts.count == 2
        guard isAffine || isTwiceLevels else { return nil }
        self.weight = weight
        bits = format.bits
        groupSize = format.blockSize
        columns = weight.columns
        if isTwiceLevels {
            // Half the scale, and what takes the offset of twice the levels away again.
            scales = weight.parts[1].withUnsafeBytes { bytes in
                bytes.map(halfPowerOfTwo)
            }
            biases = scales.map { -Planes.levelOffset * $0 }
        } else {
            scales = Self.floats(weight.parts[1], format.parts[1].type)
            biases = Self.floats(weight.parts[2], format.parts[2].type)
        }
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

    /// For each vector, its values in the order of the planes, then the sum of each group.
    func prepare(_ x: UnsafePointer<Float>, _ count: Int) -> [Float] {
        guard count <= 2, isFast else { return [] }
        let width = columns + columns / groupSize
        return [Float](unsafeUninitializedCapacity: count * width) { buffer, filled in
            filled = count * width
            guard let out = buffer.baseAddress else { return }
            for vector in 0..<count {
                let (from, to) = (x + vector * columns, out + vector * width)
                Planes.order(from, columns, codes: 8 / bits, into: to)
                Planes.sums(from, columns, of: groupSize, into: to + columns)
            }
        }
    }

    /// Whether there is a loop that does not unpack: for codes that share a byte, in whole planes.
    private var isFast: Bool {
        (bits == 2 || bits == 4 || bits == 8) && groupSize % (128 / bits) == 0
    }

    func decode(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>) {
        if isTwiceLevels {
            let room = UnsafeMutableBufferPointer(start: out, count: rows.count * columns)
            // Rows are within the matrix: nothing is left to be refused.
            do { try weight.decode(rows: rows, into: room) } catch { assertionFailure("\(error)") }
            return
        }
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
        if activations.prepared.isEmpty {
            multiplyDecoded(rows, activations, into: out, stride: stride)
            return
        }
        weight.parts[0].withUnsafeBytes { bytes in
            activations.prepared.withUnsafeBufferPointer { prepared in
                guard let base = bytes.baseAddress, let start = prepared.baseAddress else { return }
                for vector in 0..<activations.count {
                    let x = start + vector * (columns + columns / groupSize)
                    let to = out + vector * stride
                    switch (bits, isTwiceLevels) {
                    case (8, _): multiply(rows, base, x, to) { Planes.dot($0, $1) }
                    case (4, true):
                        multiply(rows, base, x, to) { codes, x in
                            Planes.dot(Planes.twiceLevels(Planes.low(codes)), x)
                                + Planes.dot(Planes.twiceLevels(Planes.high(codes)), x + 16)
                        }
                    case (4, false):
                        multiply(rows, base, x, to) { codes, x in
                            Planes.dot(Planes.low(codes), x)
                                + Planes.dot(Planes.high(codes), x + 16)
                        }
                    default:
                        multiply(rows, base, x, to) { codes, x in
                            Planes.dot(Planes.pair(codes, from: 0), x)
                                + Planes.dot(Planes.pair(codes, from: 2), x + 16)
                                + Planes.dot(Planes.pair(codes, from: 4), x + 32)
                                + Planes.dot(Planes.pair(codes, from: 6), x + 48)
                        }
                    }
                }
            }
        }
    }

    /// Multiplies by `dot`, which is one of sixteen bytes of codes.
    @inline(__always)
    private func multiply(
        _ rows: Range<Int>,
        _ base: UnsafeRawPointer,
        _ x: UnsafePointer<Float>,
        _ out: UnsafeMutablePointer<Float>,
        _ dot: (Planes.Words, UnsafePointer<Float>) -> Planes.Vector
    ) {
        let groups = columns / groupSize
        let groupBytes = groupSize * bits / 8
        let step = 128 / bits
        scales.withUnsafeBufferPointer { scales in
            biases.withUnsafeBufferPointer { biases in
                for row in rows {
                    var codes = base + row * groups * groupBytes
                    var total = Planes.Vector.zero
                    var low: Float = 0
                    for group in 0..<groups {
                        let at = row &* groups &+ group
                        var from = x + group &* groupSize
                        var sum = dot(Planes.words(codes), from)
                        var done = 16
                        while done < groupBytes {
                            from += step
                            sum += dot(Planes.words(codes + done), from)
                            done &+= 16
                        }
                        total += sum * scales[at]
                        low += biases[at] * x[columns &+ group]
                        codes += groupBytes
                    }
                    out[row] = total.sum() + low
                }
            }
        }
    }
}

/// IEEE 754 half precision, exactly; without a branch, which would cut a loop's vectors apart.
@inline(__always)
func halfToFloat(_ bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) &<< 16
    let rest = UInt32(bits & 0x7FFF)
    // Shifted into place, the exponent is 112 too small; a product with 2^112 puts it right, and
    // subnormals with it. All ones mean infinity, or no number.
    let value = Float(bitPattern: rest &<< 13) * Float(bitPattern: 239 &<< 23)
    let isSpecial = (0x7BFF &- rest) &>> 31
    return Float(bitPattern: value.bitPattern | sign | (0 &- isSpecial) & 0x7F80_0000)
}

/// Half of 2^(e - 127), without a branch; below e = 2 subnormal, with a fraction in place of the
/// exponent.
@inline(__always)
func halfPowerOfTwo(_ code: UInt8) -> Float {
    let e = UInt32(code)
    let isNormal = 0 &- ((1 &- e) &>> 31)
    return Float(bitPattern: (e &- 1) &<< 23 & isNormal | 0x20_0000 &<< e & ~isNormal)
}
