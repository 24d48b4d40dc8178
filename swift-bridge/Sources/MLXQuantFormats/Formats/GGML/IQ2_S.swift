/// IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight.
///
///     ┌──────┬────────────────┬─────────────────┬────────────────┬───────────────────────────┐
///     │ d  2 │ low: 32 bytes, │ signs: 32 bytes │ high: 8 bytes, │ scales: 8 bytes, two      │
///     │ f16  │ index bits 0-7 │ one bit a       │ index bits 8-9 │ codes l of 4 bits each,   │
///     │      │ of 8 weights   │ weight          │ of 32 weights  │ low first                 │
///     └──────┴────────────────┴─────────────────┴────────────────┴───────────────────────────┘
///
///     a byte of `high`    two bits for each of four groups of 8 weights, low bits first
///
///     w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights
///
/// The points are of 8 levels each out of 8, 25, 43; there are 1024.
enum IQ2_S: BlockFormat {
    static var type: GGMLType { .iq2_s }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 32 + 32 + 8 + 8 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let high = load64(block + 66)
        let scales = load64(block + 74)
        let points = Tables.iq2sGrid
        for pair in 0..<16 {
            let l = Int32(truncatingIfNeeded: scales &>> UInt64(truncatingIfNeeded: 4 &* pair) & 15)
            let scale = d * (Float(2 &* l &+ 1) * 0.125)
            for side in 0..<2 {
                let group = 2 &* pair &+ side
                let low = Int((block + (2 &+ group)).load(as: UInt8.self))
                let upper = Int(
                    truncatingIfNeeded: high &>> UInt64(truncatingIfNeeded: 2 &* group) & 3
                )
                let negative = (block + (34 &+ group)).load(as: UInt8.self)
                storePoint(points[low | upper &<< 8], scale, negative, out + (8 &* group))
            }
        }
    }
}
