/// IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight.
///
///     ┌──────┬──────────────────────────────┬──────────────────────────────┐
///     │ d  2 │ groups: 32 uint16, one for   │ scales: 8 bytes, two codes l │
///     │ f16  │ each 8 weights               │ of 4 bits each, low first    │
///     └──────┴──────────────────────────────┴──────────────────────────────┘
///
///     a group   bits 0-8    the index
///               bits 9-15   the signs of 7 weights, the 8th by parity
///
///     w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights
///
/// The points are of 8 levels each out of 8, 25, 43; there are 512.
enum IQ2_XS: BlockFormat {
    static var type: GGMLType { .iq2_xs }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 64 + 8 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let scales = load64(block + 66)
        let points = Tables.iq2xsGrid
        for pair in 0..<16 {
            let l = Int32(truncatingIfNeeded: scales &>> UInt64(truncatingIfNeeded: 4 &* pair) & 15)
            let scale = d * (Float(2 &* l &+ 1) * 0.125)
            let groups = load32(block + (2 &+ 4 &* pair))
            for side in 0..<2 {
                let group = groups &>> UInt32(truncatingIfNeeded: 16 &* side)
                let negative = withEighth(group &>> 9 & 127)
                let to = out + (16 &* pair &+ 8 &* side)
                storePoint(points[Int(group & 511)], scale, negative, to)
            }
        }
    }
}
