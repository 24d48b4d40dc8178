/// Products of packed codes and floats without unpacking codes to memory.
///
/// Sixteen codes, a byte each, are four words. Byte k of word i is code 4i + k, so that the bytes k of
/// all words, a plane, become a vector of floats by a shift, a mask and a conversion. Activations are
/// brought into the order of the planes once for all rows:
///
///     x'[4k + i] = x[4i + k]
///
/// Where a byte holds several codes, the first of all bytes come first, then the second of all.
enum Planes {
    typealias Bytes = SIMD16<UInt8>
    typealias Vector = SIMD4<Float>
    typealias Words = SIMD4<UInt32>

    @inline(__always)
    static func bytes(_ pointer: UnsafeRawPointer) -> Bytes {
        pointer.loadUnaligned(as: Bytes.self)
    }

    @inline(__always)
    private static func load(_ x: UnsafePointer<Float>) -> Vector {
        UnsafeRawPointer(x).loadUnaligned(as: Vector.self)
    }

    @inline(__always)
    private static func floats(_ words: Words) -> Vector {
        Vector(unsafeBitCast(words, to: SIMD4<Int32>.self))
    }

    /// Four partial sums of Σ code · x over sixteen codes without a sign.
    @inline(__always)
    static func dot(_ codes: Bytes, _ x: UnsafePointer<Float>) -> Vector {
        let words = unsafeBitCast(codes, to: Words.self)
        let low =
            floats(words & 0xFF) * load(x) + floats(words &>> 8 & 0xFF) * load(x + 4)
        let high =
            floats(words &>> 16 & 0xFF) * load(x + 8) + floats(words &>> 24) * load(x + 12)
        return low + high
    }

    /// The same of codes with a sign, times 2^24.
    @inline(__always)
    static func signedDot(_ codes: Bytes, _ x: UnsafePointer<Float>) -> Vector {
        let words = unsafeBitCast(codes, to: Words.self)
        let top = Words(repeating: 0xFF00_0000)
        let low =
            floats(words &<< 24) * load(x) + floats(words &<< 16 & top) * load(x + 4)
        let high =
            floats(words &<< 8 & top) * load(x + 8) + floats(words & top) * load(x + 12)
        return low + high
    }

    /// What undoes the 2^24 of `signedDot`.
    static let signedScale: Float = 0x1p-24

    /// Brings vectors into the order of the planes.
    ///
    /// - Parameters:
    ///   - x: values, a multiple of 16 · `codes`.
    ///   - count: how many.
    ///   - codes: that share a byte.
    ///   - out: `count` values.
    static func order(
        _ x: UnsafePointer<Float>,
        _ count: Int,
        codes: Int,
        into out: UnsafeMutablePointer<Float>
    ) {
        var to = out
        for start in stride(from: 0, to: count, by: 16 * codes) {
            for code in 0..<codes {
                let from = x + start + code
                for plane in 0..<4 {
                    for word in 0..<4 { to[4 * plane + word] = from[codes * (4 * word + plane)] }
                }
                to += 16
            }
        }
    }

    /// Sums of `size` values each.
    static func sums(
        _ x: UnsafePointer<Float>,
        _ count: Int,
        of size: Int,
        into out: UnsafeMutablePointer<Float>
    ) {
        for index in 0..<(count / size) {
            var sum = Vector.zero
            for at in stride(from: index * size, to: (index + 1) * size, by: 4) {
                sum += load(x + at)
            }
            out[index] = sum.sum()
        }
    }

    /// Twice the levels of E2M1 codes below 16, as bytes with a sign.
    @inline(__always)
    static func twiceLevels(_ codes: Bytes) -> Bytes {
        // 0 1 2 3 4 5 6 7 → 0 1 2 3 4 6 8 12, by arithmetic alone: 0 - bit is a mask
        let size = codes & 7
        let isLarge = Bytes.zero &- (size &>> 2)
        let isLargest = size & (size &>> 1) & (size &>> 2)
        let twice = size &+ (size & 3 & isLarge) &+ isLargest &+ isLargest
        let sign = Bytes.zero &- (codes &>> 3)
        return (twice ^ sign) &- sign
    }
}
