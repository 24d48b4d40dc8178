/// Q4_0: 32 weights of 4 bits and one scale.
///
///     18 bytes, 4.5 bits per weight
///     ┌─────┬──────────────────────────┐
///     │ d 2 │ qs                    16 │
///     └─────┴──────────────────────────┘
///
///     d    float16
///     qs   byte j holds weight j (low nibble) and weight j + 16
///
///     w = d · (q - 8),   q = 0 … 15
enum Q4_0: BlockFormat {
    static var type: GGMLType { .q4_0 }
    static var bits: Int { 4 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let qs = (block + 2).assumingMemoryBound(to: UInt8.self)
        for j in 0..<16 {
            out[j] = Float(Int32(qs[j] & 15) &- 8) * d
            out[j &+ 16] = Float(Int32(qs[j] &>> 4) &- 8) * d
        }
    }
}
