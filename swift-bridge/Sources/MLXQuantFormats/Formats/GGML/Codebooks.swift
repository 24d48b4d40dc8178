// What the formats with codebooks (IQ1, IQ2, IQ3) share: signs, and points times a scale.

/// Of seven signs, the eighth makes the number of negative weights even.
@inline(__always)
func withEighth(_ seven: UInt32) -> UInt8 {
    let parity = UInt32(truncatingIfNeeded: seven.nonzeroBitCount) & 1
    return UInt8(truncatingIfNeeded: seven | parity &<< 7)
}

/// Writes eight weights: the bytes of a point times the scale, negative where a bit of `negative` is
/// set.
@inline(__always)
func storePoint(
    _ point: UInt64,
    _ scale: Float,
    _ negative: UInt8,
    _ out: UnsafeMutablePointer<Float>
) {
    let signs = CodeTables.fourSigns
    let mask = SIMD8(lowHalf: signs[Int(negative & 15)], highHalf: signs[Int(negative &>> 4)])
    let weights = floats(eightBytes(of: point)) * SIMD8<Float>(repeating: scale)
    let bits = unsafeBitCast(weights, to: SIMD8<UInt32>.self) ^ mask
    store(unsafeBitCast(bits, to: SIMD8<Float>.self), out)
}

/// Writes eight weights of a point of IQ1_S, whose coordinates are -1, 0 and 1 in two bits each, one
/// more than they are: (coordinate ± 1/8) times the scale.
@inline(__always)
func storeShifted(
    _ point: UInt16,
    _ negative: UInt32,
    _ scale: Float,
    _ out: UnsafeMutablePointer<Float>
) {
    let shift = SIMD8<Float>(repeating: negative == 0 ? 0.125 : -0.125)
    let levels = CodeTables.fourOfThreeLevels
    let point = SIMD8(lowHalf: levels[Int(point & 255)], highHalf: levels[Int(point &>> 8)])
    store((point + shift) * SIMD8(repeating: scale), out)
}
