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
        let packed = bytes16(block, 0)
        let d = SIMD16<Float>(repeating: loadHalf(block + 80))
        let dmin = SIMD16<Float>(repeating: loadHalf(block + 82))
        let scales = d * floats(codes(packed, from: 0, mask: 15))
        let lows = dmin * floats(codes(packed, from: 4, mask: 15))
        // in memory, where one of them is quick to find
        withUnsafePointer(to: scales) { scales in
            withUnsafePointer(to: lows) { lows in
                let scales = UnsafeRawPointer(scales).assumingMemoryBound(to: Float.self)
                let lows = UnsafeRawPointer(lows).assumingMemoryBound(to: Float.self)
                for part in 0..<4 {
                    let qs = bytes16(block, 16 &+ 16 &* part)
                    let first = 8 &* (part / 2) &+ part % 2
                    let (scale, low, to) = (scales + first, lows + first, out + 16 &* first)
                    storeAffine(codes(qs, from: 0, mask: 3), scale[0], low[0], to)
                    storeAffine(codes(qs, from: 2, mask: 3), scale[2], low[2], to + 32)
                    storeAffine(codes(qs, from: 4, mask: 3), scale[4], low[4], to + 64)
                    storeAffine(codes(qs, from: 6, mask: 3), scale[6], low[6], to + 96)
                }
            }
        }
    }
}
