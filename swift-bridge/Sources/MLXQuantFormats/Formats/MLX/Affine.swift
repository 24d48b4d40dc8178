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

    @inline(__always)
    func decode(_ wire: Wire, _ group: Int, _ out: UnsafeMutablePointer<Float>) {
        let scale = Floats.load(wire.scales, group)
        let bias = Floats.load(wire.biases, group)
        let packed = wire.weight + group &* groupSize &* Width.bits / 8
        for eight in 0..<(groupSize / 8) {
            let codes = eightBytes(of: Width.unpack(packed + eight &* Width.bits))
            store(floats(codes), out + (8 &* eight))
        }
        if scale.isFinite && bias.isFinite {
            // then no product and no sum is NaN
            for index in 0..<groupSize {
                let product = Floats.roundedNumber(out[index] * scale)
                out[index] = Floats.roundedNumber(product + bias)
            }
        } else {
            for index in 0..<groupSize {
                out[index] = Floats.rounded(Floats.rounded(out[index] * scale) + bias)
            }
        }
    }
}

/// Eight codes in `bits` bytes.
private protocol CodeWidth: Sendable {
    static var bits: Int { get }
    /// Eight codes in the low bits of a word, the first one lowest.
    static func load(_ at: UnsafeRawPointer) -> UInt64
}

extension CodeWidth {
    /// Eight codes in a byte each, the first one lowest: halves are moved apart until each is alone.
    @inline(__always)
    static func unpack(_ at: UnsafeRawPointer) -> UInt64 {
        let width = UInt64(bits)
        var codes = load(at)
        if bits < 8 {
            codes = apart(codes, low: 1 &<< (4 &* width) &- 1, by: 32 &- 4 &* width, lane: 32)
            let pairs = (1 &<< (2 &* width) &- 1) &* 0x1_0000_0001
            codes = apart(codes, low: pairs, by: 16 &- 2 &* width, lane: 16)
            let singles = (1 &<< width &- 1) &* 0x1_0001_0001_0001
            codes = apart(codes, low: singles, by: 8 &- width, lane: 8)
        }
        return codes
    }

    /// Keeps what `low` covers, and moves what is above it to the next lane.
    @inline(__always)
    private static func apart(
        _ codes: UInt64,
        low: UInt64,
        by shift: UInt64,
        lane: UInt64
    ) -> UInt64 {
        codes & low | codes &<< shift & (low &<< lane)
    }
}

private enum OneBit: CodeWidth {
    static var bits: Int { 1 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 { UInt64(at.load(as: UInt8.self)) }
}

private enum TwoBits: CodeWidth {
    static var bits: Int { 2 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 { UInt64(load16(at)) }
}

private enum ThreeBits: CodeWidth {
    static var bits: Int { 3 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 {
        UInt64(load16(at)) | UInt64((at + 2).load(as: UInt8.self)) &<< 16
    }
}

private enum FourBits: CodeWidth {
    static var bits: Int { 4 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 { UInt64(load32(at)) }
}

private enum FiveBits: CodeWidth {
    static var bits: Int { 5 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 {
        UInt64(load32(at)) | UInt64((at + 4).load(as: UInt8.self)) &<< 32
    }
}

private enum SixBits: CodeWidth {
    static var bits: Int { 6 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 {
        UInt64(load32(at)) | UInt64(load16(at + 4)) &<< 32
    }
}

private enum EightBits: CodeWidth {
    static var bits: Int { 8 }

    @inline(__always)
    static func load(_ at: UnsafeRawPointer) -> UInt64 { load64(at) }
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
