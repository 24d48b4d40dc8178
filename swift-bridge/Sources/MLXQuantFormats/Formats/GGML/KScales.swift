/// The 6-bit scales and mins of Q4_K and Q5_K: twelve bytes for eight sub-blocks, j = 0 … 3.
///
///     byte j        bits 5-0 scale j            bits 7-6 high bits of scale j + 4
///     byte j + 4    bits 5-0 min j              bits 7-6 high bits of min j + 4
///     byte j + 8    bits 3-0 low of scale j + 4 bits 7-4 low of min j + 4
struct KScales {
    private let scales: UInt64
    private let mins: UInt64

    /// Reads the twelve bytes at `at`.
    @inline(__always)
    init(_ at: UnsafeRawPointer) {
        let first = load32(at)
        let second = load32(at + 4)
        let third = load32(at + 8)
        let upperScales = third & 0x0F0F_0F0F | first &>> 2 & 0x3030_3030
        let upperMins = third &>> 4 & 0x0F0F_0F0F | second &>> 2 & 0x3030_3030
        scales = UInt64(first & 0x3F3F_3F3F) | UInt64(upperScales) &<< 32
        mins = UInt64(second & 0x3F3F_3F3F) | UInt64(upperMins) &<< 32
    }

    /// What the codes of a sub-block are multiplied by, and what is then subtracted.
    @inline(__always)
    func pair(_ subBlock: Int, _ d: Float, _ dmin: Float) -> (scale: Float, low: Float) {
        let shift = UInt64(truncatingIfNeeded: 8 &* subBlock)
        return (
            d * Float(Int32(truncatingIfNeeded: scales &>> shift & 63)),
            dmin * Float(Int32(truncatingIfNeeded: mins &>> shift & 63))
        )
    }
}
