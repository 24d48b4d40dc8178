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
        let power = Floats.rounded(scale)
        let codes = (wire.weight + 16 &* group).assumingMemoryBound(to: UInt8.self)
        for index in 0..<16 {
            let code = codes[index]
            out[2 &* index] = Floats.rounded(e2m1(code & 15) * power)
            out[2 &* index &+ 1] = Floats.rounded(e2m1(code &>> 4) * power)
        }
    }
}

/// 2^(code - 127), and infinity for 255.
@inline(__always)
func powerOfTwo(_ code: UInt8) -> Float {
    Float(bitPattern: code == 0 ? 0x0040_0000 : UInt32(code) &<< 23)
}

/// The level of a code below 16; code 8 is -0.
@inline(__always)
func e2m1(_ code: UInt8) -> Float {
    let twice = twiceE2M1(code & 7)
    let level = Float(Int32(truncatingIfNeeded: twice)) * 0.5
    return Float(bitPattern: level.bitPattern | UInt32(code & 8) &<< 28)
}

/// Twice the level of a code below 8: 0, 1, 2, 3, 4, 6, 8, 12.
@inline(__always)
func twiceE2M1(_ code: UInt8) -> UInt8 {
    code &+ (code > 4 ? code &- 4 : 0) &+ (code == 7 ? 2 : 0)
}
