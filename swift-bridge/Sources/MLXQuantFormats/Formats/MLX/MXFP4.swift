/// MXFP4 of the OCP Microscaling specification (v1.0), as MLX stores it.
///
///     weight    uint32 [n, k/8]     E2M1 codes, 8 a word, low bits first
///     scales    uint8  [n, k/32]    E8M0: 2^(byte - 127)
///
///     one group of 32: 17 bytes, 4.25 bits per weight
///     ┌──────────────────────────────────────────────┐ ┌─────────┐
///     │ weight: 4 words, 16 bytes, 32 codes          │ │ scale 1 │
///     └──────────────────────────────────────────────┘ └─────────┘
///
///     code  0    1    2    3    4    5    6    7     + 8: negative
///           0    0.5  1    1.5  2    3    4    6
///
///     w = 2^e · level;  2^e and the product each rounded to the type in which MLX computes
struct MXFP4Groups<Floats: Rounding>: GroupFormat {
    var groupSize: Int { 32 }

    @inline(__always)
    func decode(_ wire: Wire, _ group: Int, _ out: UnsafeMutablePointer<Float>) {
        let scale = powerOfTwo(wire.scales.load(fromByteOffset: group, as: UInt8.self))
        // half of it is exact too
        let half = Floats.rounded(scale) * 0.5
        storeE2M1(bytes16(wire.weight, 16 &* group), half, out)
        if !Floats.holdsE2M1 {
            for index in 0..<32 {
                out[index] = Floats.rounded(out[index])
            }
        }
    }
}

/// Writes 32 weights of 16 bytes of codes, two neighbours a byte: twice the levels, -0 where the code
/// is 8, times half a scale.
@inline(__always)
func storeE2M1(_ bytes: SIMD16<UInt8>, _ half: Float, _ out: UnsafeMutablePointer<Float>) {
    storeE2M1(bytes.lowHalf, half, out)
    storeE2M1(bytes.highHalf, half, out + 16)
}

/// Writes 16 weights of 8 bytes of codes; as of 16 bytes.
@inline(__always)
func storeE2M1(_ bytes: SIMD8<UInt8>, _ half: Float, _ out: UnsafeMutablePointer<Float>) {
    let codes = nibbles(bytes)
    let twice = twiceE2M1(codes & SIMD16<UInt8>(repeating: 7))
    let values = SIMD16<Float>(SIMD16<Int32>(truncatingIfNeeded: twice))
    let signs = SIMD16<UInt32>(truncatingIfNeeded: codes & SIMD16<UInt8>(repeating: 8)) &<< 28
    let signed = unsafeBitCast(values, to: SIMD16<UInt32>.self) | signs
    let scaled = unsafeBitCast(signed, to: SIMD16<Float>.self) * SIMD16<Float>(repeating: half)
    UnsafeMutableRawPointer(out).storeBytes(of: scaled, as: SIMD16<Float>.self)
}

/// 2^(code - 127), and infinity for 255.
@inline(__always)
func powerOfTwo(_ code: UInt8) -> Float {
    Float(bitPattern: code == 0 ? 0x0040_0000 : UInt32(code) &<< 23)
}
