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
        let qs = bytes16(block, 2)
        storeSymmetric(codes(qs, from: 0, mask: 15), less: 8, d, out)
        storeSymmetric(codes(qs, from: 4, mask: 15), less: 8, d, out + 16)
    }
}
