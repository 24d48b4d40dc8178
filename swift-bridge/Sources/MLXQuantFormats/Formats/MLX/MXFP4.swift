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
    var groupBytes: Int { 16 }
    var scaleBytes: Int { 1 }
    private nonisolated(unsafe) let pairs = CodeTables.pairsOfE2M1

    @inline(__always)
    func decode(_ group: Wire, _ out: UnsafeMutablePointer<Float>) {
        let code = group.scales.load(as: UInt8.self)
        let scale = Floats.rounded(powerOfTwo(code))
        let scales = SIMD8<Float>(repeating: scale)
        for part in 0..<2 {
            let word = load64(group.weight + 8 &* part)
            let to = out + 16 &* part
            store(eight(word, pairs) * scales, to)
            store(eight(word &>> 32, pairs) * scales, to + 8)
        }
        if !Floats.powersOfE2M1.contains(scale) {
            for index in 0..<32 {
                out[index] = Floats.rounded(out[index])
            }
        }
    }
}

/// 2^(code - 127), and infinity for 255.
@inline(__always)
func powerOfTwo(_ code: UInt8) -> Float {
    Float(bitPattern: code == 0 ? 0x0040_0000 : UInt32(code) &<< 23)
}
