/// Q6_K: 256 weights of 6 bits; sixteen sub-blocks of 16 with an 8-bit scale each.
///
///     210 bytes, 6.5625 bits per weight
///     ┌────────────────────────────────────────┬──────────────────────┬─────────────┬─────┐
///     │ ql                                 128 │ qh                64 │ scales   16 │ d 2 │
///     └────────────────────────────────────────┴──────────────────────┴─────────────┴─────┘
///
///     ql       the low four bits of code + 32, in 4-bit planes of 64 bytes: byte l of run n holds
///              weights 128·n + l (low nibble) and 128·n + l + 64
///     qh       its high two, in 2-bit planes of 32 bytes: byte l of run n holds weights
///              128·n + l + 0, 32, 64, 96, lowest bits first
///     scales   int8
///     d        float16
///
///     w = d · scale · q,   q = -32 … 31
enum Q6_K: BlockFormat {
    static var type: GGMLType { .q6_K }
    static var bits: Int { 6 }
    static var weights: Int { 256 }
    static var bytes: Int { 128 + 64 + 16 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block + 208)
        for subBlock in 0..<16 {
            let (run, plane, side) = (subBlock / 8, subBlock / 2 % 4, subBlock % 2)
            let scale = d * Float(Int32((block + (192 &+ subBlock)).load(as: Int8.self)))
            let ql = bytes16(block, 64 &* run &+ 32 &* (plane % 2) &+ 16 &* side)
            let qh = bytes16(block, 128 &+ 32 &* run &+ 16 &* side)
            let low = codes(ql, from: 4 &* (plane / 2), mask: 15)
            let high = codes(qh, from: 2 &* plane, mask: 3)
            storeSymmetric(low | (high &<< 4), less: 32, scale, out + (16 &* subBlock))
        }
    }
}
