/// IQ4_XS: 256 weights of 4 bits with the levels of IQ4_NL; eight sub-blocks of 32 with a 6-bit scale
/// each.
///
///     136 bytes, 4.25 bits per weight
///     ┌─────┬──────────┬──────────┬──────────────────────────────────────────────┐
///     │ d 2 │scales_h 2│scales_l 4│ qs                                       128 │
///     └─────┴──────────┴──────────┴──────────────────────────────────────────────┘
///
///     d         float16, of either sign
///     scales_h  bits 2·s and 2·s + 1 are the upper two bits of scale s
///     scales_l  byte s holds the lower four of scale 2·s (low nibble) and of scale 2·s + 1
///     qs        byte 16·s + j holds weights j (low nibble) and j + 16 of sub-block s
///
///     w = d · (scale - 32) · level,   scale = 0 … 63
enum IQ4_XS: BlockFormat {
    static var type: GGMLType { .iq4_xs }
    static var bits: Int { 4 }
    static var weights: Int { 256 }
    static var bytes: Int { 2 + 2 + 4 + 128 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block)
        let highs = UInt32(load16(block + 2))
        let lows = load32(block + 4)
        let pairs = CodeTables.pairsOfIQ4NL
        for subBlock in 0..<8 {
            let high = highs &>> UInt32(truncatingIfNeeded: 2 &* subBlock) & 3
            let low = lows &>> UInt32(truncatingIfNeeded: 4 &* subBlock) & 15
            let scale = d * Float(Int32(truncatingIfNeeded: low | high &<< 4) &- 32)
            storeNibbles(block + (8 &+ 16 &* subBlock), pairs, scale, out + (32 &* subBlock))
        }
    }
}
