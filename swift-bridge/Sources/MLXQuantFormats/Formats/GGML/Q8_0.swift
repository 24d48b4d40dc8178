/// Q8_0: 32 weights of 8 bits and one scale.
///
///     34 bytes, 8.5 bits per weight
///     ┌─────┬──────────────────────────────────────────┐
///     │ d 2 │ qs                                    32 │
///     └─────┴──────────────────────────────────────────┘
///
///     d    float16
///     qs   int8
///
///     w = d · q,   q = -128 … 127
enum Q8_0: BlockFormat {
    static var type: GGMLType { .q8_0 }
    static var bits: Int { 8 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 32 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        storeSigned(bytes16(block, 2), d, out)
        storeSigned(bytes16(block, 18), d, out + 16)
    }
}
