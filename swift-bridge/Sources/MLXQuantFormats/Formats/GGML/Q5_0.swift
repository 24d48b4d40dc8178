/// Q5_0: 32 weights of 5 bits and one scale.
///
///     22 bytes, 5.5 bits per weight
///     ┌─────┬──────┬──────────────────────────┐
///     │ d 2 │ qh 4 │ qs                    16 │
///     └─────┴──────┴──────────────────────────┘
///
///     d    float16
///     qh   bit j is the fifth bit of weight j
///     qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16
///
///     w = d · (q - 16),   q = 0 … 31
enum Q5_0: BlockFormat {
    static var type: GGMLType { .q5_0 }
    static var bits: Int { 5 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 4 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let high = Int32(bitPattern: load32(block + 2))
        let qs = (block + 6).assumingMemoryBound(to: UInt8.self)
        for j in 0..<16 {
            let shift = Int32(truncatingIfNeeded: j)
            let low = Int32(qs[j] & 15) | (high &>> shift & 1) &<< 4
            let upper = Int32(qs[j] &>> 4) | (high &>> (shift &+ 16) & 1) &<< 4
            out[j] = Float(low &- 16) * d
            out[j &+ 16] = Float(upper &- 16) * d
        }
    }
}
