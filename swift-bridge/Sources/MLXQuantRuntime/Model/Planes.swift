/// Products of packed codes and floats without unpacking codes to memory.
///
/// Sixteen codes, a byte each, are four words. Byte k of word i is code 4i + k, so that the bytes k of
/// all words, a plane, become a vector of floats by a shift, a mask and a conversion. Activations are
/// brought into the order of the planes once for all rows:
///
///     x'[4k + i] = x[4i + k]
///
/// Where a byte holds several codes, the first of all bytes come first, then the second of all.
///
/// Everything is done in words, four bytes at a time: that is what compilers make vectors of on every
/// processor. Codes with a sign get an offset that takes it away, and the product is put right with
/// the sum of the activations.
enum Planes {
    typealias Vector = SIMD4<Float>
    /// Sixteen bytes.
    typealias Words = SIMD4<UInt32>

    @inline(__always)
    static func words(_ pointer: UnsafeRawPointer) -> Words {
        pointer.loadUnaligned(as: Words.self)
    }

    @inline(__always)
    private static func load(_ x: UnsafePointer<Float>) -> Vector {
        UnsafeRawPointer(x).loadUnaligned(as: Vector.self)
    }

    @inline(__always)
    private static func floats(_ words: Words) -> Vector {
        Vector(unsafeBitCast(words, to: SIMD4<Int32>.self))
    }

    /// Four partial sums of Σ code · x over sixteen codes of a byte each.
    @inline(__always)
    static func dot(_ codes: Words, _ x: UnsafePointer<Float>) -> Vector {
        let low = floats(codes & 0xFF) * load(x) + floats(codes &>> 8 & 0xFF) * load(x + 4)
        let high = floats(codes &>> 16 & 0xFF) * load(x + 8) + floats(codes &>> 24) * load(x + 12)
        return low + high
    }

    /// The low four bits of each byte.
    @inline(__always)
    static func low(_ codes: Words) -> Words { codes & 0x0F0F_0F0F }

    /// The high four bits of each byte.
    @inline(__always)
    static func high(_ codes: Words) -> Words { codes &>> 4 & 0x0F0F_0F0F }

    /// Two bits of each byte.
    @inline(__always)
    static func pair(_ codes: Words, from shift: UInt32) -> Words { codes &>> shift & 0x0303_0303 }

    /// One bit of each byte.
    @inline(__always)
    static func bit(_ codes: Words, _ shift: UInt32) -> Words { codes &>> shift & 0x0101_0101 }

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

    /// Twice the levels of E2M1 codes below 16, plus `levelOffset`.
    @inline(__always)
    static func twiceLevels(_ codes: Words) -> Words {
        // 0 1 2 3 4 5 6 7 → 0 1 2 3 4 6 8 12, by arithmetic alone; no byte carries into another
        let size = codes & 0x0707_0707
        let isLarge = bit(size, 2)
        let isLargest = isLarge & bit(size, 1) & size
        let twice = size &+ (size & (isLarge &+ isLarge &+ isLarge)) &+ isLargest &+ isLargest
        let sign = bit(codes, 3)
        let two = sign &+ sign
        let four = two &+ two
        let negative = twice & (sign | two | four | (four &+ four))
        return Words(repeating: 0x0C0C_0C0C) &+ (twice ^ negative) &- negative
    }

    /// What `twiceLevels` adds.
    static var levelOffset: Float { 12 }
}
