/// Q2_0: 64 weights of 2 bits and one scale.
///
///     18 bytes, 2.25 bits per weight
///     ┌─────┬──────────────────────────┐
///     │ d 2 │ qs                    16 │
///     └─────┴──────────────────────────┘
///
///     d    float16
///     qs   four codes a byte, low bits first
///
///     w = d · (q - 1),   q = 0 … 3
enum Q2_0: BlockFormat {
    static var type: GGMLType { .q2_0 }
    static var bits: Int { 2 }
    static var weights: Int { 64 }
    static var bytes: Int { 2 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = SIMD4<Float>(repeating: loadHalf(block))
        let qs = (block + 2).assumingMemoryBound(to: UInt8.self)
        let levels = CodeTables.fourOfThreeLevels
        for j in 0..<16 {
            store(levels[Int(qs[j])] * d, out + 4 &* j)
        }
    }
}
