/// IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight.
///
///     ┌──────┬──────────────────────────┬──────────────────────────┐
///     │ d  2 │ index: 64 bytes, one for │ words: 8 uint32, one for │
///     │ f16  │ each 4 weights           │ each 32 weights          │
///     └──────┴──────────────────────────┴──────────────────────────┘
///
///     a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
///               bits 28-31                     the scale code l
///
///     w = d · (2 l + 1) / 4 · point · sign
///
/// The points are of 4 levels each out of 4, 12, 20, … 52, 62; there are 256.
enum IQ3_XXS: BlockFormat {
    static var type: GGMLType { .iq3_xxs }
    static var bits: Int { 3 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 96 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let points = Tables.iq3xxsGrid
        for part in 0..<8 {
            let indices = load64(block + (2 &+ 8 &* part))
            let word = load32(block + (66 &+ 4 &* part))
            let scale = d * (Float(Int32(truncatingIfNeeded: 2 &* (word &>> 28) &+ 1)) * 0.25)
            for group in 0..<4 {
                let pair = indices &>> UInt64(truncatingIfNeeded: 16 &* group)
                let second = UInt64(points[Int(pair &>> 8 & 255)]) &<< 32
                let point = UInt64(points[Int(pair & 255)]) | second
                let negative = withEighth(word &>> UInt32(truncatingIfNeeded: 7 &* group) & 127)
                storePoint(point, scale, negative, out + (32 &* part &+ 8 &* group))
            }
        }
    }
}
