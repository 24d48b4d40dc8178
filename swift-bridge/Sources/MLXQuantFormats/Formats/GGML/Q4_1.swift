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
        // less -m, which is the same number
        let low = -loadHalf(block + 2)
        let qs = bytes16(block, 4)
        storeAffine(codes(qs, from: 0, mask: 15), d, low, out)
        storeAffine(codes(qs, from: 4, mask: 15), d, low, out + 16)
    }
}
