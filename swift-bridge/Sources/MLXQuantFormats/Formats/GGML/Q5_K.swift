/// Q5_K: 256 weights of 5 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.
///
///     176 bytes, 5.5 bits per weight
///     ┌─────┬──────┬─────────────┬──────────────┬──────────────────────────────────────────────┐
///     │ d 2 │dmin 2│ scales   12 │ qh        32 │ qs                                       128 │
///     └─────┴──────┴─────────────┴──────────────┴──────────────────────────────────────────────┘
///
///     d, dmin  float16
///     scales   see KScales
///     qh       the code's high bit, in 1-bit planes of 32 bytes: byte l, bit p is weight 32·p + l
///     qs       its low four, in 4-bit planes of 32 bytes: byte l of run n holds weights
///              64·n + l (low nibble) and 64·n + l + 32
///
///     w = d · scale · q - dmin · min,   q = 0 … 31
enum Q5_K: BlockFormat {
    static var type: GGMLType { .q5_K }
    static var bits: Int { 5 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 2 + 12 + 32 + 128 }

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
            let qs = bytes16(block, 48 &+ 32 &* run &+ 16 &* side)
            let qh = bytes16(block, 16 &+ 16 &* side)
            let to = out + (64 &* run &+ 16 &* side)
            let (first, second) = (2 &* run, 2 &* run &+ 1)
            let low = codes(qs, from: 0, mask: 15) | codes(qh, from: first, mask: 1) &<< 4
            let upper = codes(qs, from: 4, mask: 15) | codes(qh, from: second, mask: 1) &<< 4
            storeAffine(low, scales[first], lows[first], to)
            storeAffine(upper, scales[second], lows[second], to + 32)
        }
        run(0)
        run(1)
        run(2)
        run(3)
    }
}
