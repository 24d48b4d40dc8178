/// MLX's affine formats: a scale and a bias for every group of weights.
///
///     weight    uint32 [n, k·bits/32]     codes q, packed low bits first
///     scales    T      [n, k/groupSize]
///     biases    T      [n, k/groupSize]
///
///     one group of 64 at 4 bits, T of 16 bits: 36 bytes, 4.5 bits per weight
///     ┌──────────────────────────────────────────────┐ ┌────────┐ ┌────────┐
///     │ weight: 8 words, 32 bytes, 64 codes          │ │ scale 2│ │ bias  2│
///     └──────────────────────────────────────────────┘ └────────┘ └────────┘
///
///     w = scale · q + bias,  q = 0 … 2^bits - 1;  product and sum each rounded to T
///
/// Codes of 3, 5 and 6 bits run across the words; eight of any width fill whole bytes.
private struct AffineGroups<Width: CodeWidth, Floats: Rounding>: GroupFormat {
    let groupSize: Int
    let groupBytes: Int
    var scaleBytes: Int { Floats.bytes }
    private let width = Width()

    init(groupSize: Int) {
        self.groupSize = groupSize
        groupBytes = groupSize * Width.bits / 8
    }

    @inline(__always)
    func decode(_ group: Wire, _ out: UnsafeMutablePointer<Float>) {
        let scale = Floats.load(group.scales)
        let bias = Floats.load(group.biases)
        let packed = group.weight
        guard let line = Floats.Line(scale: scale, bias: bias) else {
            slowly(packed, scale, bias, out)
            return
        }
        // groups are of 32, 64 or 128
        var done = 0
        repeat {
            let (from, to) = (packed + done &* Width.bits / 8, out + done)
            let (first, second) = (width.codes(from), width.codes(from + Width.bits))
            store(line.weights(first), to)
            store(line.weights(second), to + 8)
            let third = width.codes(from + 2 * Width.bits)
            let fourth = width.codes(from + 3 * Width.bits)
            store(line.weights(third), to + 16)
            store(line.weights(fourth), to + 24)
            done &+= 32
        } while done < groupSize
    }

    /// Every operation rounded as the type rounds, infinite and NaN ones too.
    @inline(never)
    private func slowly(
        _ packed: UnsafeRawPointer,
        _ scale: Float,
        _ bias: Float,
        _ out: UnsafeMutablePointer<Float>
    ) {
        for eight in 0..<(groupSize / 8) {
            store(width.codes(packed + eight &* Width.bits), out + 8 &* eight)
        }
        for index in 0..<groupSize {
            out[index] = Floats.rounded(Floats.rounded(out[index] * scale) + bias)
        }
    }
}

/// Eight codes in `bits` bytes.
private protocol CodeWidth: Sendable {
    static var bits: Int { get }
    init()
    /// Eight codes, the one in the lowest bits first.
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float>
}

private struct OneBit: CodeWidth {
    static var bits: Int { 1 }
    private nonisolated(unsafe) let fours = CodeTables.fourOfOneBit

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        let byte = Int(at.load(as: UInt8.self))
        return SIMD8(lowHalf: fours[byte & 15], highHalf: fours[byte &>> 4])
    }
}

private struct TwoBits: CodeWidth {
    static var bits: Int { 2 }
    private nonisolated(unsafe) let fours = CodeTables.fourOfTwoBits

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        let first = Int(at.load(as: UInt8.self))
        let second = Int(at.load(fromByteOffset: 1, as: UInt8.self))
        return SIMD8(lowHalf: fours[first], highHalf: fours[second])
    }
}

private struct ThreeBits: CodeWidth {
    static var bits: Int { 3 }
    private nonisolated(unsafe) let pairs = CodeTables.pairsOfThreeBits

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        let word = UInt32(load16(at)) | UInt32((at + 2).load(as: UInt8.self)) &<< 16
        let low = SIMD4(lowHalf: pairs[Int(word & 63)], highHalf: pairs[Int(word &>> 6 & 63)])
        let high = SIMD4(lowHalf: pairs[Int(word &>> 12 & 63)], highHalf: pairs[Int(word &>> 18)])
        return SIMD8(lowHalf: low, highHalf: high)
    }
}

private struct FourBits: CodeWidth {
    static var bits: Int { 4 }
    private nonisolated(unsafe) let pairs = CodeTables.pairsOfFourBits

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        eight(UInt64(load32(at)), pairs)
    }
}

private struct FiveBits: CodeWidth {
    static var bits: Int { 5 }
    private nonisolated(unsafe) let pairs = CodeTables.pairsOfFiveBits

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        let word = UInt64(load32(at)) | UInt64((at + 4).load(as: UInt8.self)) &<< 32
        let low = SIMD4(lowHalf: pairs[Int(word & 1023)], highHalf: pairs[Int(word &>> 10 & 1023)])
        let high = SIMD4(
            lowHalf: pairs[Int(word &>> 20 & 1023)],
            highHalf: pairs[Int(word &>> 30)]
        )
        return SIMD8(lowHalf: low, highHalf: high)
    }
}

private struct SixBits: CodeWidth {
    static var bits: Int { 6 }

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> {
        // twelve bits, two codes, in each quarter of a word
        let word = UInt64(load32(at)) | UInt64(load16(at + 4)) &<< 32
        let halves = word & 0xFF_FFFF | word &<< 8 & 0xFF_FFFF_0000_0000
        let quarters = halves & 0x0FFF_0000_0FFF | halves &<< 4 & 0x0FFF_0000_0FFF_0000
        let pairs = unsafeBitCast(quarters.littleEndian, to: SIMD4<UInt16>.self)
        // each of them twice, and one code of it at the upper end
        let (low, high) = (SIMD4<UInt16>(repeating: 1 << 10), SIMD4<UInt16>(repeating: 1 << 4))
        let codes = interleaved(pairs &* low, pairs &* high) &>> SIMD8(repeating: 10)
        return floats(codes)
    }
}

private struct EightBits: CodeWidth {
    static var bits: Int { 8 }

    @inline(__always)
    func codes(_ at: UnsafeRawPointer) -> SIMD8<Float> { floats(bytes8(at, 0)) }
}

/// The decoder of a scheme of the affine mode.
func affineDecoder<Floats: Rounding>(
    _ scheme: QuantizationScheme,
    _ floats: Floats.Type
) -> Decoder {
    let size = scheme.groupSize
    switch scheme.bits {
    case 1: return Decoder(AffineGroups<OneBit, Floats>(groupSize: size))
    case 2: return Decoder(AffineGroups<TwoBits, Floats>(groupSize: size))
    case 3: return Decoder(AffineGroups<ThreeBits, Floats>(groupSize: size))
    case 4: return Decoder(AffineGroups<FourBits, Floats>(groupSize: size))
    case 5: return Decoder(AffineGroups<FiveBits, Floats>(groupSize: size))
    case 6: return Decoder(AffineGroups<SixBits, Floats>(groupSize: size))
    default: return Decoder(AffineGroups<EightBits, Floats>(groupSize: size))
    }
}
