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
        let codes = wire.weight + group &* groupSize &* Width.bits / 8
        for eight in 0..<(groupSize / 8) {
            let to = out + eight &* 8
            Width.unpack(codes + eight &* Width.bits, to)
            for index in 0..<8 {
                to[index] = Floats.rounded(Floats.rounded(to[index] * scale) + bias)
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
    @inline(__always)
    static func unpack(_ at: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let word = load(at)
        let mask = UInt64(1) &<< UInt64(bits) &- 1
        for index in 0..<8 {
            let code = word &>> UInt64(truncatingIfNeeded: bits &* index) & mask
            out[index] = Float(Int32(truncatingIfNeeded: code))
        }
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
