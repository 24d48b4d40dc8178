/// Q3_K: 256 weights of 3 bits; sixteen sub-blocks of 16 with a 6-bit scale each.
///
///     110 bytes, 3.4375 bits per weight
///     ┌──────────────────────┬────────────────────────────────────────┬─────────────┬─────┐
///     │ hmask             32 │ qs                                  64 │ scales   12 │ d 2 │
///     └──────────────────────┴────────────────────────────────────────┴─────────────┴─────┘
///
///     hmask    the high bit of code + 4, in 1-bit planes of 32 bytes: byte l, bit p is weight
///              32·p + l
///     qs       the low two, in 2-bit planes of 32 bytes: byte l of run n holds weights
///              128·n + l + 0, 32, 64, 96, lowest bits first
///     scales   scale + 32: low four bits in 4-bit planes of 8 bytes, high two in 2-bit planes of 4
///
///                  byte j < 8        bits 3-0 sub-block j         bits 7-4 sub-block j + 8
///                  byte 8 + j        bits 2p+1, 2p: sub-block j + 4·p
///     d        float16
///
///     w = d · scale · q,   q = -4 … 3,  scale = -32 … 31
enum Q3_K: BlockFormat {
    static var type: GGMLType { .q3_K }
    static var bits: Int { 3 }
    static var weights: Int { 256 }
    static var bytes: Int { 32 + 64 + 12 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = SIMD16<Float>(repeating: loadHalf(block + 108))
        let scales = d * floats(scaleCodes(block + 96), less: 32)
        // sub-blocks that share bytes; written out, since a scale is quick to find by a constant only
        @inline(__always)
        func planes(_ run: Int, _ side: Int) {
            let low = bytes16(block, 32 &+ 32 &* run &+ 16 &* side)
            let high = bytes16(block, 16 &* side)
            plane(low, 0, high, 4 &* run, 8 &* run &+ side)
            plane(low, 2, high, 4 &* run &+ 1, 8 &* run &+ side &+ 2)
            plane(low, 4, high, 4 &* run &+ 2, 8 &* run &+ side &+ 4)
            plane(low, 6, high, 4 &* run &+ 3, 8 &* run &+ side &+ 6)
        }
        @inline(__always)
        func plane(
            _ low: SIMD16<UInt8>,
            _ lowFrom: Int,
            _ high: SIMD16<UInt8>,
            _ highFrom: Int,
            _ subBlock: Int
        ) {
            let upper = codes(high, from: highFrom, mask: 1) &<< 2
            let three = codes(low, from: lowFrom, mask: 3) | upper
            storeSymmetric(three, less: 4, scales[subBlock], out + 16 &* subBlock)
        }
        planes(0, 0)
        planes(0, 1)
        planes(1, 0)
        planes(1, 1)
    }

    /// Sixteen scales in twelve bytes, each 32 more than it is.
    @inline(__always)
    private static func scaleCodes(_ packed: UnsafeRawPointer) -> SIMD16<UInt8> {
        let low = bytes8(packed, 0)
        let high = UInt64(load32(packed + 8))
        let first = high & 0x0303_0303 | high &<< 30 & 0x0303_0303_0000_0000
        let second = high &>> 4 & 0x0303_0303 | high &<< 26 & 0x0303_0303_0000_0000
        let lows = SIMD16(
            lowHalf: low & SIMD8(repeating: 15),
            highHalf: low &>> SIMD8(repeating: 4)
        )
        let highs = SIMD16(lowHalf: eightBytes(of: first), highHalf: eightBytes(of: second))
        return lows | highs &<< SIMD16(repeating: 4)
    }
}
