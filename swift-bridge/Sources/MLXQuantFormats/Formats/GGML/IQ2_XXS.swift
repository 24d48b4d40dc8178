/// IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight.
///
///     ┌──────┬─────────────────────────────────────────────────────┐
///     │ d  2 │ pairs: 64 bytes, 8 for each 32 weights              │
///     │ f16  │ ┌──────────────────────────┬──────────────────────┐ │
///     │      │ │ index: 4 bytes, one for  │ word: uint32         │ │
///     │      │ │ each 8 weights           │                      │ │
///     │      │ └──────────────────────────┴──────────────────────┘ │
///     └──────┴─────────────────────────────────────────────────────┘
///
///     a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
///               bits 28-31                     the scale code l
///
///     w = d · (2 l + 1) / 8 · point · sign
///
/// The points are of 8 levels each out of 8, 25, 43; there are 256.
enum IQ2_XXS: BlockFormat {
    static var type: GGMLType { .iq2_xxs }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 64 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let points = Tables.iq2xxsGrid
        for part in 0..<8 {
            let indices = load32(block + (2 &+ 8 &* part))
            let word = load32(block + (6 &+ 8 &* part))
            let scale = d * (Float(Int32(truncatingIfNeeded: 2 &* (word &>> 28) &+ 1)) * 0.125)
            for group in 0..<4 {
                let shift = UInt32(truncatingIfNeeded: group)
                let point = points[Int(indices &>> (8 &* shift) & 255)]
                let negative = withEighth(word &>> (7 &* shift) & 127)
                storePoint(point, scale, negative, out + (32 &* part &+ 8 &* group))
            }
        }
    }
}
