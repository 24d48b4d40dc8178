/// Q4_K: 256 weights of 4 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.
///
///     144 bytes, 4.5 bits per weight
///     ┌─────┬──────┬─────────────┬──────────────────────────────────────────────┐
///     │ d 2 │dmin 2│ scales   12 │ qs                                       128 │
///     └─────┴──────┴─────────────┴──────────────────────────────────────────────┘
///
///     d, dmin  float16
///     scales   see KScales
///     qs       4-bit planes of 32 bytes: byte l of run n holds weights 64·n + l (low nibble) and
///              64·n + l + 32
///
///     w = d · scale · q - dmin · min,   q = 0 … 15
enum Q4_K: BlockFormat {
    static var type: GGMLType { .q4_K }
    static var bits: Int { 4 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 2 + 12 + 128 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let dmin = loadHalf(block + 2)
        let packed = KScales(block + 4)
        for run in 0..<4 {
            let first = packed.pair(2 &* run, d, dmin)
            let second = packed.pair(2 &* run &+ 1, d, dmin)
            for side in 0..<2 {
                let qs = bytes16(block, 16 &+ 32 &* run &+ 16 &* side)
                let to = out + (64 &* run &+ 16 &* side)
                storeAffine(codes(qs, from: 0, mask: 15), first.scale, first.low, to)
                storeAffine(codes(qs, from: 4, mask: 15), second.scale, second.low, to + 32)
            }
        }
    }
}
