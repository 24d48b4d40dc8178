/// TQ2_0: 256 weights of three levels in 2 bits, one scale.
///
///     66 bytes, 2.0625 bits per weight
///     ┌──────────────────────────────────────────────┬─────┐
///     │ qs                                        64 │ d 2 │
///     └──────────────────────────────────────────────┴─────┘
///
///     qs   2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l, + 32, + 64 and + 96,
///          low bits first
///     d    float16
///
///     w = d · (q - 1),   q = 0 … 3
enum TQ2_0: BlockFormat {
    static var type: GGMLType { .tq2_0 }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 64 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block + 64)
        for part in 0..<4 {
            let qs = bytes16(block, 16 &* part)
            let to = out + (128 &* (part / 2) &+ 16 &* (part % 2))
            storeSymmetric(codes(qs, from: 0, mask: 3), less: 1, d, to)
            storeSymmetric(codes(qs, from: 2, mask: 3), less: 1, d, to + 32)
            storeSymmetric(codes(qs, from: 4, mask: 3), less: 1, d, to + 64)
            storeSymmetric(codes(qs, from: 6, mask: 3), less: 1, d, to + 96)
        }
    }
}
