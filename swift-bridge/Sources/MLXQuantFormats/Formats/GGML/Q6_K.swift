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
        let d = SIMD16<Float>(repeating: loadHalf(block + 208))
        let signed = bytes16(block, 192)
        let scales = d * floats(signed ^ SIMD16(repeating: 128), less: 128)
        // sub-blocks that share bytes; written out, since a scale is quick to find by a constant only
        @inline(__always)
        func planes(_ run: Int, _ side: Int) {
            let first = bytes16(block, 64 &* run &+ 16 &* side)
            let second = bytes16(block, 64 &* run &+ 16 &* side &+ 32)
            let high = bytes16(block, 128 &+ 32 &* run &+ 16 &* side)
            plane(codes(first, from: 0, mask: 15), high, 0, 8 &* run &+ side)
            plane(codes(second, from: 0, mask: 15), high, 2, 8 &* run &+ side &+ 2)
            plane(codes(first, from: 4, mask: 15), high, 4, 8 &* run &+ side &+ 4)
            plane(codes(second, from: 4, mask: 15), high, 6, 8 &* run &+ side &+ 6)
        }
        @inline(__always)
        func plane(_ low: SIMD16<UInt8>, _ high: SIMD16<UInt8>, _ from: Int, _ subBlock: Int) {
            let six = low | codes(high, from: from, mask: 3) &<< 4
            storeSymmetric(six, less: 32, scales[subBlock], out + 16 &* subBlock)
        }
        planes(0, 0)
        planes(0, 1)
        planes(1, 0)
        planes(1, 1)
    }
}
