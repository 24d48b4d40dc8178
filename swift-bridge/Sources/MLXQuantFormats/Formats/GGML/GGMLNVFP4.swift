/// NVFP4 as ggml stores it: four groups of 16 in one block, each with a scale of its own.
///
///     36 bytes, 4.5 bits per weight
///     ┌─────┬──────────────────────────────────────────────┐
///     │ d 4 │ qs                                        32 │
///     └─────┴──────────────────────────────────────────────┘
///
///     d    byte s is the scale of group s: E4M3 without a sign; 0x7F is 0, 0xFF is 480
///     qs   E2M1; byte 8·s + j holds weights j (low nibble) and j + 8 of group s
///
///     w = d / 2 · twice the level
enum GGMLNVFP4: BlockFormat {
    static var type: GGMLType { .nvfp4 }
    static var bits: Int { 4 }
    static var weights: Int { 64 }
    static var bytes: Int { 4 + 32 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let pairs = CodeTables.pairsOfTwiceE2M1
        for group in 0..<4 {
            let scale = halfScale((block + group).load(as: UInt8.self))
            let scales = SIMD8<Float>(repeating: scale)
            let qs = load64(block + (4 &+ 8 &* group))
            store(eight(lowHalves: qs, pairs) * scales, out + 16 &* group)
            store(eight(lowHalves: qs &>> 4, pairs) * scales, out + (16 &* group &+ 8))
        }
    }

    /// E4M3's bits are those of a float16 with another bias: 2^8 times as large, subnormal ones too.
    @inline(__always)
    private static func halfScale(_ code: UInt8) -> Float {
        code == 0x7F ? 0 : float(half: UInt16(code & 0x7F) &<< 7) * 128
    }
}
