// What the formats with codebooks (IQ1, IQ2, IQ3) share: signs, and points times a scale.

/// Of seven signs, the eighth makes the number of negative weights even.
@inline(__always)
func withEighth(_ seven: UInt32) -> UInt8 {
    let parity = UInt32(truncatingIfNeeded: seven.nonzeroBitCount) & 1
    return UInt8(truncatingIfNeeded: seven | parity &<< 7)
}

/// Writes eight weights: the bytes of a point, which are 1 to 127, times the scale, negative where a
/// bit of `negative` is set.
@inline(__always)
func storePoint(
    _ point: UInt64,
    _ scale: Float,
    _ negative: UInt8,
    _ out: UnsafeMutablePointer<Float>
) {
    let ones = spread(negative) &>> 7
    // the two's complement of the bytes that are negative; no byte carries, since none is 0
    let coordinates = eightBytes(of: (point ^ (ones &* 255)) &+ ones)
    let whole = SIMD8<Int32>(truncatingIfNeeded: SIMD8<Int8>(truncatingIfNeeded: coordinates))
    store(SIMD8<Float>(whole) * SIMD8<Float>(repeating: scale), out)
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
    let shift: Float = negative == 0 ? 0.125 : -0.125
    let word = Int32(point)
    for j in 0..<8 {
        let coordinate = word &>> Int32(truncatingIfNeeded: 2 &* j) & 3
        out[j] = (Float(coordinate &- 1) + shift) * scale
    }
}
