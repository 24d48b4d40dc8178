/// Q4_1: 32 weights of 4 bits, a scale and an offset.
///
///     20 bytes, 5 bits per weight
///     ┌─────┬─────┬──────────────────────────┐
///     │ d 2 │ m 2 │ qs                    16 │
///     └─────┴─────┴──────────────────────────┘
///
///     d, m float16
///     qs   byte j holds weight j (low nibble) and weight j + 16
///
///     w = d · q + m,   q = 0 … 15
enum Q4_1: BlockFormat {
    static var type: GGMLType { .q4_1 }
    static var bits: Int { 4 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 2 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let m = loadHalf(block + 2)
        let qs = (block + 4).assumingMemoryBound(to: UInt8.self)
        for j in 0..<16 {
            out[j] = Float(Int32(qs[j] & 15)) * d + m
            out[j &+ 16] = Float(Int32(qs[j] &>> 4)) * d + m
        }
    }
}
