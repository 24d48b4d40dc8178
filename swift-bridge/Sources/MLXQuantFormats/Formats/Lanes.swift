// Several weights at a time: bytes to floats, signs, stores.

/// Sixteen bytes, from any address.
@inline(__always)
func bytes16(_ block: UnsafeRawPointer, _ offset: Int) -> SIMD16<UInt8> {
    block.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self)
}

/// Eight bytes, from any address.
@inline(__always)
func bytes8(_ block: UnsafeRawPointer, _ offset: Int) -> SIMD8<UInt8> {
    block.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt8>.self)
}

/// Of each byte the bits from `shift` on that the mask leaves.
@inline(__always)
func codes(_ bytes: SIMD16<UInt8>, from shift: Int, mask: UInt8) -> SIMD16<UInt8> {
    let places = SIMD16<UInt8>(repeating: UInt8(truncatingIfNeeded: shift))
    return (bytes &>> places) & SIMD16<UInt8>(repeating: mask)
}

/// Sixteen weights: codes times a scale, less a minimum.
@inline(__always)
func storeAffine(
    _ codes: SIMD16<UInt8>,
    _ scale: Float,
    _ low: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let (scale, low) = (SIMD8<Float>(repeating: scale), SIMD8<Float>(repeating: low))
    let (first, second) = words(codes)
    store(floats(first) * scale - low, out)
    store(floats(second) * scale - low, out + 8)
}

/// Sixteen weights: codes less what stands for zero, times a scale.
@inline(__always)
func storeSymmetric(
    _ codes: SIMD16<UInt8>,
    less zero: UInt8,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let scale = SIMD8<Float>(repeating: scale)
    let (first, second) = words(codes)
    store(floats(first, less: zero) * scale, out)
    store(floats(second, less: zero) * scale, out + 8)
}

/// Codes less what stands for zero.
@inline(__always)
func floats(_ codes: SIMD8<UInt8>, less zero: UInt8 = 0) -> SIMD8<Float> {
    floats(unsafeBitCast(interleaved(codes, SIMD8()), to: SIMD8<UInt16>.self), less: zero)
}

/// Bytes in words of their own, eight and eight.
@inline(__always)
func words(_ bytes: SIMD16<UInt8>) -> (SIMD8<UInt16>, SIMD8<UInt16>) {
    var apart = SIMD32<UInt8>()
    apart.evenHalf = bytes
    return (
        unsafeBitCast(apart.lowHalf, to: SIMD8<UInt16>.self),
        unsafeBitCast(apart.highHalf, to: SIMD8<UInt16>.self)
    )
}

/// Codes less what stands for zero.
@inline(__always)
func floats(_ codes: SIMD8<UInt16>, less zero: UInt8 = 0) -> SIMD8<Float> {
    // 2^23 and the code, as its last bits. The library's conversions of vectors are calls.
    let large = interleaved(codes, SIMD8(repeating: 0x4B00))
    return unsafeBitCast(large, to: SIMD8<Float>.self) - SIMD8(repeating: 0x1p23 + Float(zero))
}

/// The elements of two vectors in turn, the first one's first.
@inline(__always)
func interleaved<Scalar>(_ first: SIMD8<Scalar>, _ second: SIMD8<Scalar>) -> SIMD16<Scalar> {
    var found = SIMD16<Scalar>()
    found.evenHalf = first
    found.oddHalf = second
    return found
}

/// The elements of two vectors in turn, the first one's first.
@inline(__always)
func interleaved<Scalar>(_ first: SIMD4<Scalar>, _ second: SIMD4<Scalar>) -> SIMD8<Scalar> {
    var found = SIMD8<Scalar>()
    found.evenHalf = first
    found.oddHalf = second
    return found
}

/// Sixteen codes as floats, for scales.
@inline(__always)
func floats(_ codes: SIMD16<UInt8>, less zero: UInt8 = 0) -> SIMD16<Float> {
    let (first, second) = words(codes)
    return SIMD16(lowHalf: floats(first, less: zero), highHalf: floats(second, less: zero))
}

/// The bytes of a word, the lowest first.
@inline(__always)
func eightBytes(of word: UInt64) -> SIMD8<UInt8> {
    unsafeBitCast(word.littleEndian, to: SIMD8<UInt8>.self)
}

/// The lowest sixteen bits of a word, each the fifth bit of a code.
@inline(__always)
func fifthBits(_ word: UInt32) -> SIMD16<UInt8> {
    let low = spread(UInt8(truncatingIfNeeded: word)) &>> 3
    let high = spread(UInt8(truncatingIfNeeded: word &>> 8)) &>> 3
    return SIMD16(lowHalf: eightBytes(of: low), highHalf: eightBytes(of: high))
}

/// A mask's bits in the highest bits of eight bytes; the lowest bit is in the lowest byte.
@inline(__always)
func spread(_ mask: UInt8) -> UInt64 {
    // byte j has bit j alone, which what is added carries to the top
    let alone = (UInt64(mask) &* 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201
    return (alone &+ 0x0040_6070_787C_7E7F) & 0x8080_8080_8080_8080
}

/// Writes eight floats.
@inline(__always)
func store(_ values: SIMD8<Float>, _ out: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(out).storeBytes(of: values, as: SIMD8<Float>.self)
}

/// Sixteen weights: codes that are two's complements, times a scale.
@inline(__always)
func storeSigned(
    _ codes: SIMD16<UInt8>,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    storeSymmetric(codes ^ SIMD16(repeating: 128), less: 128, scale, out)
}

/// Writes 32 weights of 16 bytes of codes: byte j holds weight j (low nibble) and weight j + 16, each
/// the name of a value, times a scale.
@inline(__always)
func storeNibbles(
    _ codes: UnsafeRawPointer,
    _ pairs: UnsafePointer<SIMD2<Float>>,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let scales = SIMD8<Float>(repeating: scale)
    let (first, second) = (load64(codes), load64(codes + 8))
    store(eight(lowHalves: first, pairs) * scales, out)
    store(eight(lowHalves: second, pairs) * scales, out + 8)
    store(eight(lowHalves: first &>> 4, pairs) * scales, out + 16)
    store(eight(lowHalves: second &>> 4, pairs) * scales, out + 24)
}

/// Writes four floats.
@inline(__always)
func store(_ values: SIMD4<Float>, _ out: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(out).storeBytes(of: values, as: SIMD4<Float>.self)
}

/// Bytes in the upper eight bits of words.
@inline(__always)
func upper(_ bytes: SIMD8<UInt8>) -> SIMD8<UInt32> {
    let words = unsafeBitCast(interleaved(SIMD8(), bytes), to: SIMD8<UInt16>.self)
    return unsafeBitCast(interleaved(SIMD8(), words), to: SIMD8<UInt32>.self)
}
