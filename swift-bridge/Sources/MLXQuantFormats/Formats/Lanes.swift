// Several weights at a time: bytes to floats, signs, stores.

/// Sixteen bytes, from any address.
@inline(__always)
func bytes16(_ block: UnsafeRawPointer, _ offset: Int) -> SIMD16<UInt8> {
    block.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self)
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
    let scaled = floats(codes) * SIMD16<Float>(repeating: scale)
    store(scaled - SIMD16<Float>(repeating: low), out)
}

/// Sixteen weights: codes less what stands for zero, times a scale.
@inline(__always)
func storeSymmetric(
    _ codes: SIMD16<UInt8>,
    less zero: UInt8,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let centred = codes &- SIMD16<UInt8>(repeating: zero)
    store(signedFloats(centred) * SIMD16<Float>(repeating: scale), out)
}

/// Codes as floats.
@inline(__always)
func floats(_ codes: SIMD16<UInt8>) -> SIMD16<Float> {
    SIMD16<Float>(SIMD16<Int32>(truncatingIfNeeded: codes))
}

/// Codes as floats.
@inline(__always)
func floats(_ codes: SIMD8<UInt8>) -> SIMD8<Float> {
    SIMD8<Float>(SIMD8<Int32>(truncatingIfNeeded: codes))
}

/// Codes that are two's complements as floats.
@inline(__always)
func signedFloats(_ codes: SIMD16<UInt8>) -> SIMD16<Float> {
    SIMD16<Float>(SIMD16<Int32>(truncatingIfNeeded: SIMD16<Int8>(truncatingIfNeeded: codes)))
}

/// The values, negated where a bit of `negative` is set; the lowest bit is the first value's.
@inline(__always)
func signed(_ values: SIMD8<Float>, by negative: UInt8) -> SIMD8<Float> {
    let places = SIMD8<UInt32>(1, 2, 4, 8, 16, 32, 64, 128)
    let set = (SIMD8(repeating: UInt32(negative)) & places) .!= 0
    let flips = SIMD8<UInt32>(repeating: 0).replacing(with: 0x8000_0000, where: set)
    // the prefix operator gives 0 for 0, and not -0
    let flipped = unsafeBitCast(values, to: SIMD8<UInt32>.self) ^ flips
    return unsafeBitCast(flipped, to: SIMD8<Float>.self)
}

/// Writes sixteen floats.
@inline(__always)
func store(_ values: SIMD16<Float>, _ out: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(out).storeBytes(of: values, as: SIMD16<Float>.self)
}

/// Writes eight floats.
@inline(__always)
func store(_ values: SIMD8<Float>, _ out: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(out).storeBytes(of: values, as: SIMD8<Float>.self)
}

/// Writes 32 weights of 16 bytes of codes: byte j holds weight j (low nibble) and weight j + 16, each
/// the name of a level, times a scale.
@inline(__always)
func decodeLevels(
    _ codes: UnsafeRawPointer,
    _ scale: Float,
    _ levels: UnsafePointer<Int8>,
    _ out: UnsafeMutablePointer<Float>
) {
    let codes = codes.assumingMemoryBound(to: UInt8.self)
    for j in 0..<16 {
        out[j] = Float(Int32(levels[Int(codes[j] & 15)])) * scale
        out[j &+ 16] = Float(Int32(levels[Int(codes[j] &>> 4)])) * scale
    }
}
