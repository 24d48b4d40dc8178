/// Q8_K: 256 weights of 8 bits with one scale; ggml's type for activations.
///
///     292 bytes, 9.125 bits per weight
///     ┌─────┬───────────────────────────────────────────────┬─────────────────────┐
///     │ d 4 │ qs                                        256 │ bsums            32 │
///     └─────┴───────────────────────────────────────────────┴─────────────────────┘
///
///     d        float32
///     qs       int8
///     bsums    sixteen int16: the sum of each 16 codes, for dot products; not read here
///
///     w = d · q
enum Q8_K: BlockFormat {
    static var type: GGMLType { .q8_K }
    static var bits: Int { 8 }
    static var weights: Int { 256 }
    static var bytes: Int { 4 + 256 + 32 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = Float(bitPattern: load32(block))
        for part in 0..<16 {
            storeSigned(bytes16(block, 4 &+ 16 &* part), d, out + 16 &* part)
        }
    }
}
