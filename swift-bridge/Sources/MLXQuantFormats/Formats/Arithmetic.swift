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

/// The float16 bits nearest to a value: beyond 65,504 by half a step infinite; every NaN is 0x7E00
/// with its sign.
@inline(__always)
func halfBits(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    let sign = UInt16(truncatingIfNeeded: bits &>> 16) & 0x8000
    let size = bits & 0x7FFF_FFFF
    let normal = (size &+ 0xFFF &+ (size &>> 13 & 1) &- 112 &<< 23) &>> 13
    // at one half, a Float's last bit is that of a subnormal float16
    let tiny = (Float(bitPattern: size) + 0.5).bitPattern &- Float(0.5).bitPattern
    var found = size < 113 &<< 23 ? tiny : normal
    found = size >= 0x477F_F000 ? 0x7C00 : found
    found = size > 0x7F80_0000 ? 0x7E00 : found
    return UInt16(truncatingIfNeeded: found) | sign
}

/// The types in which MLX held the weights and does arithmetic: each operation in `Float`, its result
/// rounded.
protocol Rounding {
    /// Whether the type holds a level of E2M1 times any power of two that a byte of E8M0 stands for,
    /// as long as a `Float` does.
    static var holdsE2M1: Bool { get }
    /// The nearest value that the type holds.
    static func rounded(_ value: Float) -> Float
    /// The same of what is not NaN; quicker.
    static func roundedNumber(_ value: Float) -> Float
    /// A stored number; exact.
    static func load(_ from: UnsafeRawPointer, _ index: Int) -> Float
}

enum RoundToFloat: Rounding {
    static var holdsE2M1: Bool { true }

    @inline(__always)
    static func rounded(_ value: Float) -> Float { value }

    @inline(__always)
    static func roundedNumber(_ value: Float) -> Float { value }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer, _ index: Int) -> Float {
        Float(bitPattern: load32(from + 4 &* index))
    }
}

enum RoundToHalf: Rounding {
    static var holdsE2M1: Bool { false }

    @inline(__always)
    static func rounded(_ value: Float) -> Float {
        value.isNaN ? .nan : roundedNumber(value)
    }

    @inline(__always)
    static func roundedNumber(_ value: Float) -> Float {
        let bits = value.bitPattern
        let size = bits & 0x7FFF_FFFF
        let normal = (size &+ 0xFFF &+ (size &>> 13 & 1)) & 0xFFFF_E000
        // at one half, a Float's last bit is that of a subnormal float16
        let tiny = ((Float(bitPattern: size) + 0.5) - 0.5).bitPattern
        var found = size < 113 &<< 23 ? tiny : normal
        found = size >= 0x477F_F000 ? 0x7F80_0000 : found
        return Float(bitPattern: found | (bits & 0x8000_0000))
    }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer, _ index: Int) -> Float {
        float(half: load16(from + 2 &* index))
    }
}

enum RoundToBFloat: Rounding {
    static var holdsE2M1: Bool { true }

    @inline(__always)
    static func rounded(_ value: Float) -> Float {
        value.isNaN ? .nan : roundedNumber(value)
    }

    @inline(__always)
    static func roundedNumber(_ value: Float) -> Float {
        let bits = value.bitPattern
        return Float(bitPattern: (bits &+ 0x7FFF &+ (bits &>> 16 & 1)) & 0xFFFF_0000)
    }

    @inline(__always)
    static func load(_ from: UnsafeRawPointer, _ index: Int) -> Float {
        float(bfloat: load16(from + 2 &* index))
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

/// A float16 at any address.
@inline(__always)
func loadHalf(_ at: UnsafeRawPointer) -> Float {
    float(half: load16(at))
}
