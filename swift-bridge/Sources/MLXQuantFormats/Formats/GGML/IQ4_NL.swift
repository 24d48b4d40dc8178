/// IQ4_NL: 32 weights of 4 bits, which name levels that lie closer around zero, and one scale.
///
///     18 bytes, 4.5 bits per weight
///     ┌─────┬──────────────────────────┐
///     │ d 2 │ qs                    16 │
///     └─────┴──────────────────────────┘
///
///     d    float16, of either sign
///     qs   byte j holds weight j (low nibble) and weight j + 16
///
///     w = d · level
enum IQ4_NL: BlockFormat {
    static var type: GGMLType { .iq4_nl }
    static var bits: Int { 4 }
    static var weights: Int { 32 }
    static var bytes: Int { 2 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        storeNibbles(block + 2, CodeTables.pairsOfIQ4NL, loadHalf(block), out)
    }
}
