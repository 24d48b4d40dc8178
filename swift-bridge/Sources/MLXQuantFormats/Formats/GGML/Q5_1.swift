/// Q5_1: 32 weights of 5 bits, a scale and an offset.
///
///     24 bytes, 6 bits per weight
///     ┌─────┬─────┬──────┬──────────────────────────┐
///     │ d 2 │ m 2 │ qh 4 │ qs                    16 │
///     └─────┴─────┴──────┴──────────────────────────┘
///
///     d, m float16
///     qh   bit j is the fifth bit of weight j
///     qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16
///
///     w = d · q + m,   q = 0 … 31
enum Q5_1: BlockFormat {
    static var type: GGMLType { .q5_1 }
    static var bits: Int { 5 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 2 + 4 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let m = loadHalf(block + 2)
        let high = load32(block + 4)
        let qs = bytes16(block, 8)
        let low = codes(qs, from: 0, mask: 15) | fifthBits(high)
        let upper = codes(qs, from: 4, mask: 15) | fifthBits(high &>> 16)
        // less -m, which is the same number
        storeAffine(low, d, -m, out)
        storeAffine(upper, d, -m, out + 16)
    }
}
