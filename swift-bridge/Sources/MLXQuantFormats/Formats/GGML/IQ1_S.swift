/// IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight.
///
///     ┌──────┬───────────────────────────┬───────────────────────────┐
///     │ d  2 │ low: 32 bytes, index bits │ words: 8 uint16, one for  │
///     │ f16  │ 0-7 of 8 weights          │ each 32 weights           │
///     └──────┴───────────────────────────┴───────────────────────────┘
///
///     a word    bits 0-2, 3-5, 6-8, 9-11   index bits 8-10 of four groups of 8 weights
///               bits 12-14                 the scale code l
///               bit 15                     set where the shift is -1/8, clear where it is 1/8
///
///     w = d · (2 l + 1) · (point + shift)
///
/// The points are of 8 levels each out of -1, 0, 1; there are 2048.
enum IQ1_S: BlockFormat {
    static var type: GGMLType { .iq1_s }
    static var bits: Int { 1 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 32 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let points = Tables.iq1sGrid
        for part in 0..<8 {
            let low = load32(block + (2 &+ 4 &* part))
            let word = UInt32(load16(block + (34 &+ 2 &* part)))
            let scale = d * Float(Int32(truncatingIfNeeded: 2 &* (word &>> 12 & 7) &+ 1))
            for group in 0..<4 {
                let shift = UInt32(truncatingIfNeeded: group)
                let upper = (word &>> (3 &* shift) & 7) &<< 8
                let index = Int(low &>> (8 &* shift) & 255 | upper)
                storeShifted(points[index], word &>> 15, scale, out + (32 &* part &+ 8 &* group))
            }
        }
    }
}
