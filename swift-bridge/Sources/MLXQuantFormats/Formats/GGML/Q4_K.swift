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
        let packed = KScales(block + 4, loadHalf(block), loadHalf(block + 2))
        let (scales, lows) = (packed.scales, packed.lows)
        // written out, since a scale is quick to find by a constant only
        @inline(__always)
        func run(_ run: Int) {
            half(run, 0)
            half(run, 1)
        }
        @inline(__always)
        func half(_ run: Int, _ side: Int) {
            let qs = bytes16(block, 16 &+ 32 &* run &+ 16 &* side)
            let to = out + (64 &* run &+ 16 &* side)
            let (first, second) = (2 &* run, 2 &* run &+ 1)
            storeAffine(codes(qs, from: 0, mask: 15), scales[first], lows[first], to)
            storeAffine(codes(qs, from: 4, mask: 15), scales[second], lows[second], to + 32)
        }
        run(0)
        run(1)
        run(2)
        run(3)
    }
}
