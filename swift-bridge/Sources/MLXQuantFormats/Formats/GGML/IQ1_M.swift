/// IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight.
///
///     ┌───────────────────────────┬───────────────────────────┬──────────────────────────┐
///     │ low: 32 bytes, index bits │ high: 16 bytes, 4 bits    │ words: 4 uint16, one for │
///     │ 0-7 of 8 weights          │ for each 8 weights        │ each 64 weights          │
///     └───────────────────────────┴───────────────────────────┴──────────────────────────┘
///
///     4 bits of `high`   bits 0-2   index bits 8-10
///     (low half first)   bit 3      set where the shift is -1/8, clear where it is 1/8
///
///     a word             bits 0-2, 3-5, 6-8, 9-11   the scale codes l of 16 weights each
///                        bits 12-15                 4 bits of d (f16), the lowest in the first word
///
///     w = d · (2 l + 1) · (point + shift)
///
/// The points are those of IQ1_S.
enum IQ1_M: BlockFormat {
    static var type: GGMLType { .iq1_m }
    static var bits: Int { 1 }
    static var weights: Int { 256 }
    static var bytes: Int { 32 + 16 + 8 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let words = load64(block + 48)
        let d = float(
            half: UInt16(
                truncatingIfNeeded: words &>> 12 & 0xF | words &>> 24 & 0xF0
                    | words &>> 36 & 0xF00 | words &>> 48 & 0xF000
            )
        )
        let points = Tables.iq1sGrid
        for part in 0..<8 {
            let low = load32(block + (4 &* part))
            let high = UInt32(load16(block + (32 &+ 2 &* part)))
            let place = UInt64(truncatingIfNeeded: 16 &* (part / 2) &+ 6 &* (part % 2))
            let scales = UInt32(truncatingIfNeeded: words &>> place)
            for group in 0..<4 {
                let shift = UInt32(truncatingIfNeeded: group)
                let l = scales &>> (3 &* (shift / 2)) & 7
                let scale = d * Float(Int32(truncatingIfNeeded: 2 &* l &+ 1))
                let four = high &>> (4 &* shift) & 15
                let index = Int(low &>> (8 &* shift) & 255 | (four & 7) &<< 8)
                storeShifted(points[index], four &>> 3, scale, out + (32 &* part &+ 8 &* group))
            }
        }
    }
}
