/// Q3_K: 256 weights of 3 bits; sixteen sub-blocks of 16 with a 6-bit scale each.
///
///     110 bytes, 3.4375 bits per weight
///     ┌──────────────────────┬────────────────────────────────────────┬─────────────┬─────┐
///     │ hmask             32 │ qs                                  64 │ scales   12 │ d 2 │
///     └──────────────────────┴────────────────────────────────────────┴─────────────┴─────┘
///
///     hmask    the high bit of code + 4, in 1-bit planes of 32 bytes: byte l, bit p is weight
///              32·p + l
///     qs       the low two, in 2-bit planes of 32 bytes: byte l of run n holds weights
///              128·n + l + 0, 32, 64, 96, lowest bits first
///     scales   scale + 32: low four bits in 4-bit planes of 8 bytes, high two in 2-bit planes of 4
///
///                  byte j < 8        bits 3-0 sub-block j         bits 7-4 sub-block j + 8
///                  byte 8 + j        bits 2p+1, 2p: sub-block j + 4·p
///     d        float16
///
///     w = d · scale · q,   q = -4 … 3,  scale = -32 … 31
enum Q3_K: BlockFormat {
    static var type: GGMLType { .q3_K }
    static var bits: Int { 3 }
    static var weights: Int { 256 }
    static var bytes: Int { 32 + 64 + 12 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block + 108)
        let lows = load64(block + 96)
        let highs = load32(block + 104)
        for subBlock in 0..<16 {
            let (run, plane, side) = (subBlock / 8, subBlock / 2 % 4, subBlock % 2)
            let low = lows &>> UInt64(8 &* (subBlock % 8) &+ 4 &* run) & 15
            let high = highs &>> UInt32(8 &* (subBlock % 4) &+ 2 &* (subBlock / 4)) & 3
            let packed = Int32(truncatingIfNeeded: low) | Int32(truncatingIfNeeded: high) &<< 4
            let scale = d * Float(packed &- 32)
            let qs = bytes16(block, 32 &+ 32 &* run &+ 16 &* side)
            let hmask = bytes16(block, 16 &* side)
            let upper = codes(hmask, from: 4 &* run &+ plane, mask: 1)
            let code = codes(qs, from: 2 &* plane, mask: 3) | (upper &<< 2)
            storeSymmetric(code, less: 4, scale, out + (16 &* subBlock))
        }
    }
}
