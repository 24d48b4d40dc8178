/// TQ1_0: 256 weights of three levels, five to a byte, one scale.
///
///     54 bytes, 1.6875 bits per weight
///     ┌───────────────────────────────────────────┬──────┬─────┐
///     │ qs                                     48 │ qh 4 │ d 2 │
///     └───────────────────────────────────────────┴──────┴─────┘
///
///     qs   byte l of the first 32 holds weights l, l + 32, … l + 128; byte l of the last 16 holds
///          weights 160 + l, + 16, … + 64
///     qh   byte l holds weights 240 + l, + 4, + 8 and + 12
///     d    float16
///
///     w = d · (t - 1),   t = 0, 1, 2: digit i of a byte is ((byte · 3^i mod 256) · 3) div 256
enum TQ1_0: BlockFormat {
    static var type: GGMLType { .tq1_0 }
    static var bits: Int { 2 }
    static var weights: Int { 256 }
    static var bytes: Int { 48 + 4 + 2 }

    @inline(__always)
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>) {
        let d = loadHalf(block + 52)
        var first = bytes16(block, 0)
        var second = bytes16(block, 16)
        var third = bytes16(block, 32)
        for digit in 0..<5 {
            storeSymmetric(digits(first), less: 1, d, out + (32 &* digit))
            storeSymmetric(digits(second), less: 1, d, out + (32 &* digit &+ 16))
            storeSymmetric(digits(third), less: 1, d, out + (160 &+ 16 &* digit))
            // bytes wrap around, which leaves the fraction behind the digit
            first = first &* 3
            second = second &* 3
            third = third &* 3
        }
        let qh = (block + 48).loadUnaligned(as: UInt32.self)
        let words = SIMD4<UInt32>(repeating: qh)
        let powers = SIMD16<UInt8>(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27)
        let last = unsafeBitCast(words, to: SIMD16<UInt8>.self) &* powers
        storeSymmetric(digits(last), less: 1, d, out + 240)
    }

    /// The first digit of each byte: byte · 3 div 256.
    @inline(__always)
    private static func digits(_ bytes: SIMD16<UInt8>) -> SIMD16<UInt8> {
        let words = unsafeBitCast(bytes, to: SIMD8<UInt16>.self)
        let (three, eight) = (SIMD8<UInt16>(repeating: 3), SIMD8<UInt16>(repeating: 8))
        let low = ((words & SIMD8(repeating: 0xFF)) &* three) &>> eight
        let high = ((words &>> eight) &* three) & SIMD8(repeating: 0xFF00)
        return unsafeBitCast(low | high, to: SIMD16<UInt8>.self)
    }
}
