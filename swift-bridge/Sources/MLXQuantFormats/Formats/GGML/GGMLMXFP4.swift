/// MXFP4 as ggml stores it: the OCP Microscaling format, a scale and its 32 codes in one block.
///
///     17 bytes, 4.25 bits per weight
///     ┌─────┬──────────────────────────┐
///     │ e 1 │ qs                    16 │
///     └─────┴──────────────────────────┘
///
///     e    E8M0: 2^(e - 127)
///     qs   E2M1; byte j holds weight j (low nibble) and weight j + 16
///
///     w = 2^(e - 127) / 2 · twice the level
///
/// Half the scale is finite even for e = 255; 0 has no sign.
enum GGMLMXFP4: BlockFormat {
    static var type: GGMLType { .mxfp4 }
    static var bits: Int { 4 }
    static var weights: Int { 32 }
    static var bytes: Int { 1 + 16 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let e = UInt32(block.load(as: UInt8.self))
        // below e = 2 subnormal, and so with a fraction in place of the exponent
        let half = Float(bitPattern: e < 2 ? 0x20_0000 &<< e : (e &- 1) &<< 23)
        storeNibbles(block + 1, CodeTables.pairsOfTwiceE2M1, half, out)
    }
}
