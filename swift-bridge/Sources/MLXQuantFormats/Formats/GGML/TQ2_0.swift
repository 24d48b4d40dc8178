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
        for run in 0..<2 {
            let qs = (block + (32 &* run)).assumingMemoryBound(to: UInt8.self)
            for plane in 0..<4 {
                let to = out + (128 &* run &+ 32 &* plane)
                for l in 0..<32 {
                    let code = qs[l] &>> UInt8(2 &* plane) & 3
                    to[l] = Float(Int32(code) &- 1) * d
                }
            }
        }
    }
}
