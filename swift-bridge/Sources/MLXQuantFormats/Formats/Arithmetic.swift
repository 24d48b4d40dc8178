// Floating-point types without hardware of their own, in integer operations that compilers turn into
// vector instructions. Everything rounds to nearest, ties to even.

/// The value of float16 bits; exact.
@inline(__always)
func float(half bits: UInt16) -> Float {
    let word = UInt32(truncatingIfNeeded: bits)
    // with the exponent's bias of a Float the number is 2^-112 of what it should be, subnormal or not
    let magnitude = Float(bitPattern: (word & 0x7FFF) &<< 13) * 0x1p112
    // infinity and NaN come out as 65,536 and more
    let top: UInt32 = magnitude >= 65536 ? 0x7F80_0000 : 0
    return Float(bitPattern: magnitude.bitPattern | top | (word & 0x8000) &<< 16)
}

/// The value of bfloat16 bits; exact.
@inline(__always)
func float(bfloat bits: UInt16) -> Float {
    Float(bitPattern: UInt32(truncatingIfNeeded: bits) &<< 16)
}

/// The float16 bits nearest to a value: beyond 65,504 by half a step infinite; NaN stays NaN, with its
/// sign.
@inline(__always)
func halfBits(_ value: Float) -> UInt16 {
    #if arch(arm64)
        return Float16(value).bitPattern
    #else
        let bits = value.bitPattern
        let size = Float(bitPattern: bits & 0x7FFF_FFFF)
        // 65,536 stands for infinity; NaN is not greater
        let bounded = size > 0x1p16 ? 0x1p16 : size
        // a power of two whose last bit is that of the float16; of subnormal ones it is the same
        let power = Float(bitPattern: bounded.bitPattern & 0x7F80_0000)
        let least = power > 0x1p-14 ? power : 0x1p-14
        let coarse = Float(bitPattern: least.bitPattern &+ 13 &<< 23)
        // with the exponent's bias of a float16 its bits are those of a Float, subnormal or not
        let small = ((bounded + coarse) - coarse) * 0x1p-112
        let upper = (small.bitPattern &<< 3) & 0x7FFF_FFFF | bits & 0x8000_0000
        return UInt16(truncatingIfNeeded: Int32(bitPattern: upper) &>> 16)
    #endif
}

/// So many floats, or those of one block, are decoded before they are made float16.
var halvedTogether: Int { 512 }

/// Writes the float16 bits nearest to each value.
@inline(__always)
func halve(
    _ floats: UnsafePointer<Float>,
    _ count: Int,
    _ out: UnsafeMutablePointer<UInt16>
) {
    for index in 0..<count {
        out[index] = halfBits(floats[index])
    }
}

/// A little-endian uint16 at any address.
@inline(__always)
func load16(_ at: UnsafeRawPointer) -> UInt16 {
    UInt16(littleEndian: at.loadUnaligned(as: UInt16.self))
}

/// A little-endian uint32 at any address.
@inline(__always)
func load32(_ at: UnsafeRawPointer) -> UInt32 {
    UInt32(littleEndian: at.loadUnaligned(as: UInt32.self))
}

/// A little-endian uint64 at any address.
@inline(__always)
func load64(_ at: UnsafeRawPointer) -> UInt64 {
    UInt64(littleEndian: at.loadUnaligned(as: UInt64.self))
}

/// A float16 at any address; exact.
@inline(__always)
func loadHalf(_ at: UnsafeRawPointer) -> Float {
    let bits = load16(at)
    if bits & 0x7C00 == 0x7C00 { return float(half: bits) }
    // sign and number in their places, with the exponent's bias of a Float
    let word = UInt32(bitPattern: Int32(Int16(bitPattern: bits))) &<< 13 & 0x8FFF_E000
    return Float(bitPattern: word) * 0x1p112
}
