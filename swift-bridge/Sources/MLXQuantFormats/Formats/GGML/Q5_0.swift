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
        let high = load32(block + 2)
        let qs = bytes16(block, 6)
        let low = codes(qs, from: 0, mask: 15) | fifthBits(high)
        let upper = codes(qs, from: 4, mask: 15) | fifthBits(high &>> 16)
        storeSymmetric(low, less: 16, d, out)
        storeSymmetric(upper, less: 16, d, out + 16)
    }
}
