/// MXFP8 (E4M3 elements) of the OCP Microscaling specification (v1.0), as MLX stores it.
///
///     weight    uint32 [n, k/4]     E4M3 codes, 4 a word, low bits first
///     scales    uint8  [n, k/32]    E8M0: 2^(byte - 127)
///
///     one group of 32: 33 bytes, 8.25 bits per weight
///     ┌──────────────────────────────────────────────┐ ┌─────────┐
///     │ weight: 8 words, 32 bytes, 32 codes          │ │ scale 1 │
///     └──────────────────────────────────────────────┘ └─────────┘
///
///     w = 2^e · x;  2^e and the product each rounded to the type in which MLX computes
struct MXFP8Groups<Floats: Rounding>: GroupFormat {
    var groupSize: Int { 32 }
    var groupBytes: Int { 32 }
    var scaleBytes: Int { 1 }

    private nonisolated(unsafe) let values = CodeTables.e4m3

    @inline(__always)
    func decode(_ group: Wire, _ out: UnsafeMutablePointer<Float>) {
        let code = group.scales.load(as: UInt8.self)
        let power = Floats.rounded(powerOfTwo(code))
        for part in 0..<8 {
            let word = load32(group.weight + 4 &* part)
            let four = SIMD4(
                values[Int(word & 255)],
                values[Int(word &>> 8 & 255)],
                values[Int(word &>> 16 & 255)],
                values[Int(word &>> 24)]
            )
            store(four * SIMD4(repeating: power), out + 4 &* part)
        }
        if !Floats.powersOfE4M3.contains(power) {
            for index in 0..<32 {
                out[index] = Floats.rounded(out[index])
            }
        }
    }
}

/// The value of an E4M3 code; 0x7F and 0xFF are NaN.
@inline(__always)
func e4m3(_ code: UInt8) -> Float {
    let size = UInt32(code & 0x7F)
    // Its bits are those of a Float whose exponent's bias is another, subnormal ones too.
    let magnitude = Float(bitPattern: size &<< 20) * 0x1p120
    let nan: UInt32 = size == 0x7F ? 0x7FC0_0000 : 0
    return Float(bitPattern: magnitude.bitPattern | nan | UInt32(code & 0x80) &<< 24)
}
