/// The types in which MLX held the weights and does arithmetic: each operation in `Float`, its result
/// rounded to nearest, ties to even.
protocol Rounding: Sendable {
    /// What multiplies codes by a scale and adds a bias.
    associatedtype Line: AffineLine

    /// Which powers of two the type holds times every level of E2M1, exactly.
    static var powersOfE2M1: ClosedRange<Float> { get }
    /// Which powers of two the type holds times every value of E4M3, exactly.
    static var powersOfE4M3: ClosedRange<Float> { get }
    /// The nearest value that the type holds.
    static func rounded(_ value: Float) -> Float
    /// Bytes of a stored number.
    static var bytes: Int { get }
    /// A stored number; exact.
    static func load(_ from: UnsafeRawPointer) -> Float
}

/// Codes, whole numbers of 8 bits at most, times a scale, plus a bias; product and sum each rounded, in
/// a way that is quick where neither is rounded at the end of a type's range.
protocol AffineLine {
    /// Nil where the quick way is not exact.
    init?(scale: Float, bias: Float)
    /// The weights of eight codes.
    func weights(_ codes: SIMD8<Float>) -> SIMD8<Float>
}

enum RoundToFloat: Rounding {
    static var bytes: Int { 4 }
    // what a `Float` does not hold is rounded by the multiplication already
    static var powersOfE2M1: ClosedRange<Float> { 0...(.infinity) }
    static var powersOfE4M3: ClosedRange<Float> { 0...(.infinity) }

    @inline(__always)
    static func rounded(_ value: Float) -> Float { value }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer) -> Float {
        Float(bitPattern: load32(from))
    }

    struct Line: AffineLine {
        private let scale: SIMD8<Float>
        private let bias: SIMD8<Float>

        @inline(__always)
        init?(scale: Float, bias: Float) {
            self.scale = SIMD8(repeating: scale)
            self.bias = SIMD8(repeating: bias)
        }

        @inline(__always)
        func weights(_ codes: SIMD8<Float>) -> SIMD8<Float> {
            codes * scale + bias
        }
    }
}

enum RoundToHalf: Rounding {
    static var bytes: Int { 2 }
    static var powersOfE2M1: ClosedRange<Float> { 0x1p-23...0x1p13 }
    static var powersOfE4M3: ClosedRange<Float> { 0x1p-15...0x1p7 }

    @inline(__always)
    static func rounded(_ value: Float) -> Float {
        float(half: halfBits(value))
    }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer) -> Float {
        float(half: load16(from))
    }

    /// All numbers are multiples of 2^-24, whole ones of scale and bias. So only what overflows is
    /// rounded otherwise than to eleven significant bits.
    struct Line: AffineLine {
        private let scale: SIMD8<Float>
        private let bias: SIMD8<Float>

        @inline(__always)
        init?(scale: Float, bias: Float) {
            // -0 could be a sum, which does not survive here
            guard abs(scale) * 256 + abs(bias) < 65504, bias.bitPattern != 0x8000_0000 else {
                return nil
            }
            self.scale = SIMD8(repeating: scale)
            self.bias = SIMD8(repeating: bias)
        }

        @inline(__always)
        func weights(_ codes: SIMD8<Float>) -> SIMD8<Float> {
            elevenBits(elevenBits(codes * scale) + bias)
        }

        /// Adding a power of two, of the value's sign, whose last bit is the last to be kept.
        @inline(__always)
        private func elevenBits(_ values: SIMD8<Float>) -> SIMD8<Float> {
            let bits = unsafeBitCast(values, to: SIMD8<UInt32>.self)
            let powers = (bits & SIMD8(repeating: 0xFF80_0000)) &+ SIMD8(repeating: 13 &<< 23)
            let coarse = unsafeBitCast(powers, to: SIMD8<Float>.self)
            return (values + coarse) - coarse
        }
    }
}

enum RoundToBFloat: Rounding {
    static var bytes: Int { 2 }
    // it has the exponents of a `Float`, and the bits of a level
    static var powersOfE2M1: ClosedRange<Float> { 0...(.infinity) }
    static var powersOfE4M3: ClosedRange<Float> { 0x1p-111...(.infinity) }

    @inline(__always)
    static func rounded(_ value: Float) -> Float {
        if value.isNaN { return .nan }
        let bits = value.bitPattern
        return Float(bitPattern: (bits &+ 0x7FFF &+ (bits &>> 16 & 1)) & 0xFFFF_0000)
    }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer) -> Float {
        float(bfloat: load16(from))
    }

    /// What rounds a number x to eight significant bits is one rounding of a `Float`, which has 24:
    ///
    ///     RN24(2^16 x + x) - 2^16 x = RN8(x)
    ///
    /// The sum's last bit is that of x's eight, unless adding x takes the sum beyond a power of two,
    /// and what decides a tie is even, since 2^16 x has no bits then where the tie is. Of x = code · scale
    /// with its 16 bits, both hold. Of x = product + bias only a power of two less a number smaller
    /// than its 2^16th part goes wrong, and so neither of the two may be that much smaller than the other.
    /// Multiplied by 2^16, everything comes out of six operations:
    ///
    ///     p = RN24(code · 2^16 (2^16 + 1) scale) - code · 2^32 scale       2^16 times the product
    ///     z = RN24(p + 2^16 bias)                                         2^16 times the sum
    ///     w = RN24((1 + 2^-16) z) - z
    struct Line: AffineLine {
        private let both: SIMD8<Float>
        private let large: SIMD8<Float>
        private let bias: SIMD8<Float>

        @inline(__always)
        init?(scale: Float, bias: Float) {
            // by exponents, 127 more than they are; -0 could be a sum, which does not survive here
            let (size, distance) = (Self.exponent(scale), Self.exponent(bias))
            guard size > 8, size < 200,
                bias.bitPattern == 0 || UInt32(bitPattern: distance &- size &+ 7) <= 22
            else { return nil }
            both = SIMD8(repeating: scale * 65537 * 0x1p16)
            large = SIMD8(repeating: scale * 0x1p32)
            self.bias = SIMD8(repeating: bias * 0x1p16)
        }

        @inline(__always)
        private static func exponent(_ value: Float) -> Int32 {
            Int32(bitPattern: value.bitPattern &>> 23 & 255)
        }

        @inline(__always)
        func weights(_ codes: SIMD8<Float>) -> SIMD8<Float> {
            let sums = (codes * both - codes * large) + bias
            return sums * SIMD8(repeating: 1 + 0x1p-16) - sums
        }
    }
}
