/// Q2_K: 256 weights of 2 bits; sixteen sub-blocks of 16 with a 4-bit scale and a 4-bit min each.
///
///     84 bytes, 2.625 bits per weight
///     ┌────────────────┬──────────────────────────────────────────┬─────┬──────┐
///     │ scales      16 │ qs                                    64 │ d 2 │dmin 2│
///     └────────────────┴──────────────────────────────────────────┴─────┴──────┘
///
///     scales   byte j: sub-block j's scale in the low nibble, its min in the high one
///     qs       2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l + 0, 32, 64, 96,
///              lowest bits first
///     d, dmin  float16
///
///     w = d · scale · q - dmin · min,   q = 0 … 3
enum Q2_K: BlockFormat {
    static var type: GGMLType { .q2_K }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 16 + 64 + 2 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block + 80)
        let dmin = loadHalf(block + 82)
        for subBlock in 0..<16 {
            let (run, plane, side) = (subBlock / 8, subBlock / 2 % 4, subBlock % 2)
            let packed = (block + subBlock).load(as: UInt8.self)
            let scale = d * Float(Int32(packed & 15))
            let low = dmin * Float(Int32(packed &>> 4))
            let qs = bytes16(block, 16 &+ 32 &* run &+ 16 &* side)
            let code = codes(qs, from: 2 &* plane, mask: 3)
            storeAffine(code, scale, low, out + (16 &* subBlock))
        }
    }
}
