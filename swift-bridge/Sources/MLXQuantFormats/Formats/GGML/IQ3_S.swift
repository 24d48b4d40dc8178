/// IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight.
///
///     ┌──────┬────────────────┬─────────────────┬─────────────────┬──────────────────────────┐
///     │ d  2 │ low: 64 bytes, │ high: 8 bytes,  │ signs: 32 bytes │ scales: 4 bytes, two     │
///     │ f16  │ index bits 0-7 │ index bit 8 of  │ one bit a       │ codes l of 4 bits each,  │
///     │      │ of 4 weights   │ 32 weights      │ weight          │ low first                │
///     └──────┴────────────────┴─────────────────┴─────────────────┴──────────────────────────┘
///
///     a byte of `high`    one bit for each of eight groups of 4 weights, low bits first
///
///     w = d · (2 l + 1) · point · sign        l for each 32 weights
///
/// The points are of 4 levels each out of 1, 3, 5, … 15; there are 512.
enum IQ3_S: BlockFormat {
    static var type: GGMLType { .iq3_s }
    static var bits: Int { 3 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 64 + 8 + 32 + 4 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let scales = load32(block + 106)
        let points = Tables.iq3sGrid
        for part in 0..<8 {
            let lows = load64(block + (2 &+ 8 &* part))
            let high = UInt64((block + (66 &+ part)).load(as: UInt8.self))
            let signs = load32(block + (74 &+ 4 &* part))
            let l = Int32(truncatingIfNeeded: scales &>> UInt32(truncatingIfNeeded: 4 &* part) & 15)
            let scale = d * Float(2 &* l &+ 1)
            for group in 0..<4 {
                let low = lows &>> UInt64(truncatingIfNeeded: 16 &* group)
                let upper = high &>> UInt64(truncatingIfNeeded: 2 &* group)
                let first = Int(truncatingIfNeeded: low & 255 | (upper & 1) &<< 8)
                let second = Int(truncatingIfNeeded: low &>> 8 & 255 | (upper & 2) &<< 7)
                let point = UInt64(points[first]) | UInt64(points[second]) &<< 32
                let negative = UInt8(
                    truncatingIfNeeded: signs &>> UInt32(truncatingIfNeeded: 8 &* group)
                )
                storePoint(point, scale, negative, out + (32 &* part &+ 8 &* group))
            }
        }
    }
}
