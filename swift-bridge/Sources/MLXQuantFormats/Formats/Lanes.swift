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
    // eight at a time: what converts sixteen at once is slow where vectors are wide
    store(floats(codes.lowHalf) * scale - low, out)
    store(floats(codes.highHalf) * scale - low, out + 8)
}

/// Sixteen weights: codes less what stands for zero, times a scale.
@inline(__always)
func storeSymmetric(
    _ codes: SIMD16<UInt8>,
    less zero: UInt8,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    storeSigned(codes &- SIMD16<UInt8>(repeating: zero), scale, out)
}

/// The halves of eight bytes in turn, the lower one of each first.
@inline(__always)
func nibbles(_ bytes: SIMD8<UInt8>) -> SIMD16<UInt8> {
    let words = SIMD8<UInt16>(truncatingIfNeeded: bytes)
    let apart = (words | (words &<< SIMD8(repeating: 4))) & SIMD8(repeating: 0x0F0F)
    return unsafeBitCast(apart, to: SIMD16<UInt8>.self)
}

/// Codes as floats.
@inline(__always)
func floats(_ codes: SIMD8<UInt8>) -> SIMD8<Float> {
    SIMD8<Float>(SIMD8<Int32>(truncatingIfNeeded: codes))
}

/// Codes that are two's complements as floats.
@inline(__always)
func signedFloats(_ codes: SIMD8<UInt8>) -> SIMD8<Float> {
    SIMD8<Float>(SIMD8<Int32>(truncatingIfNeeded: SIMD8<Int8>(truncatingIfNeeded: codes)))
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
    let scale = SIMD8<Float>(repeating: scale)
    store(signedFloats(codes.lowHalf) * scale, out)
    store(signedFloats(codes.highHalf) * scale, out + 8)
}

/// Twice the levels of E2M1 codes below 8: 0, 1, 2, 3, 4, 6, 8, 12.
@inline(__always)
func twiceE2M1(_ codes: SIMD16<UInt8>) -> SIMD16<UInt8> {
    let low = codes & SIMD16<UInt8>(repeating: 3)
    let more =
        low &+ ((low & (low &>> SIMD16<UInt8>(repeating: 1))) &<< SIMD16<UInt8>(repeating: 1))
    let upper = SIMD16<UInt8>(repeating: 0) &- (codes &>> SIMD16<UInt8>(repeating: 2))
    return codes &+ (more & upper)
}

/// Sixteen weights: twice the levels of E2M1 codes, 0 without a sign, times a scale.
@inline(__always)
func storeTwiceE2M1(
    _ codes: SIMD16<UInt8>,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let twice = twiceE2M1(codes & SIMD16<UInt8>(repeating: 7))
    let negative = SIMD16<UInt8>(repeating: 0) &- (codes &>> SIMD16<UInt8>(repeating: 3))
    storeSigned((twice ^ negative) &- negative, scale, out)
}

/// Writes 32 weights of 16 bytes of codes: byte j holds weight j (low nibble) and weight j + 16, each
/// the name of a level, times a scale.
@inline(__always)
func decodeLevels(
    _ codes: UnsafeRawPointer,
    _ scale: Float,
    _ levels: UnsafePointer<Float>,
    _ out: UnsafeMutablePointer<Float>
) {
    let codes = codes.assumingMemoryBound(to: UInt8.self)
    for j in 0..<16 {
        out[j] = levels[Int(codes[j] & 15)] * scale
        out[j &+ 16] = levels[Int(codes[j] &>> 4)] * scale
    }
}
