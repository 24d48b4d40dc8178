/// Q1_0: 128 signs and one scale.
///
///     18 bytes, 1.125 bits per weight
///     ┌─────┬──────────────────────────┐
///     │ d 2 │ qs                    16 │
///     └─────┴──────────────────────────┘
///
///     d    float16
///     qs   bit j is the sign of weight j
///
///     w = d where the bit is 1, -d where it is 0
enum Q1_0: BlockFormat {
    static var type: GGMLType { .q1_0 }
    static var bits: Int { 1 }
    static var weights: Int { 128 }
    static var bytes: Int { 2 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        for eight in 0..<16 {
            let negative = spread(~(block + (2 &+ eight)).load(as: UInt8.self))
            let signs = upper(eightBytes(of: negative))
            let values = SIMD8<UInt32>(repeating: d.bitPattern) ^ signs
            store(unsafeBitCast(values, to: SIMD8<Float>.self), out + (8 &* eight))
        }
    }
}
