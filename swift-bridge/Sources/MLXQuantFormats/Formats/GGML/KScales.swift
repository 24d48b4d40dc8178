/// The 6-bit scales and mins of Q4_K and Q5_K: twelve bytes for eight sub-blocks, j = 0 … 3.
///
///     byte j        bits 5-0 scale j            bits 7-6 high bits of scale j + 4
///     byte j + 4    bits 5-0 min j              bits 7-6 high bits of min j + 4
///     byte j + 8    bits 3-0 low of scale j + 4 bits 7-4 low of min j + 4
struct KScales {
    /// What the codes of a sub-block are multiplied by.
    let scales: SIMD8<Float>
    /// What is then subtracted.
    let lows: SIMD8<Float>

    /// Reads the twelve bytes at `at`.
    @inline(__always)
    init(_ at: UnsafeRawPointer, _ d: Float, _ dmin: Float) {
        let first = load32(at)
        let second = load32(at + 4)
        let third = load32(at + 8)
        let upperScales = third & 0x0F0F_0F0F | first &>> 2 & 0x3030_3030
        let upperMins = third &>> 4 & 0x0F0F_0F0F | second &>> 2 & 0x3030_3030
        let scale = UInt64(first & 0x3F3F_3F3F) | UInt64(upperScales) &<< 32
        let min = UInt64(second & 0x3F3F_3F3F) | UInt64(upperMins) &<< 32
        scales = floats(eightBytes(of: scale)) * SIMD8(repeating: d)
        lows = floats(eightBytes(of: min)) * SIMD8(repeating: dmin)
    }
}
