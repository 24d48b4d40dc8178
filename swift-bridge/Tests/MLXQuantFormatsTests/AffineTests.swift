import Testing

@testable import MLXQuantFormats

/// A rounding as it is defined, operation by operation.
private func defined<Floats: Rounding>(
    _ code: Float,
    _ scale: Float,
    _ bias: Float,
    _ floats: Floats.Type
) -> Float {
    Floats.rounded(Floats.rounded(code * scale) + bias)
}

/// How many numbers differ, over all codes of a list, between the quick way and the definition; and how
/// many pairs of scale and bias the quick way took.
private func differences<Floats: Rounding>(
    _ floats: Floats.Type,
    _ scales: [Float],
    _ biases: [Float]
) -> (wrong: Int, taken: Int) {
    let codes = [0, 1, 2, 3, 5, 7, 11, 15, 31, 63, 85, 127, 129, 170, 254, 255].map(Float.init)
    var (wrong, taken) = (0, 0)
    for scale in scales {
        for bias in biases {
            guard let line = Floats.Line(scale: scale, bias: bias) else { continue }
            taken += 1
            for first in [0, 8] {
                let eight = SIMD8<Float>(codes[first..<(first + 8)])
                let found = line.weights(eight)
                for place in 0..<8 {
                    let wanted = defined(codes[first + place], scale, bias, floats)
                    if found[place].bitPattern != wanted.bitPattern { wrong += 1 }
                }
            }
        }
    }
    return (wrong, taken)
}

/// Numbers of `bits` significant bits: those at the ends of a binade and some between, at exponents.
private func numbers(_ bits: Int, _ exponents: ClosedRange<Int>) -> [Float] {
    let one = 1 << (bits - 1)
    let sizes = [0, 1, 2, 3, one / 3, one / 2 + 1, one - 3, one - 2, one - 1].map {
        Float(one + $0)
    }
    return exponents.flatMap { exponent in
        sizes.flatMap { size in
            [1, -1].map {
                $0 * Float(sign: .plus, exponent: exponent - bits + 1, significand: size)
            }
        }
    }
}

@Suite("The quick way to scale codes gives the bits of the slow one")
struct AffineTests {
    @Test("BF16", arguments: [-126, -100, -7, 60])
    func bfloat(_ exponent: Int) {
        let biases = numbers(8, (exponent - 18)...(exponent + 26)) + [0, -0.0, .infinity, .nan]
        let found = differences(
            RoundToBFloat.self,
            numbers(8, exponent...exponent) + [0, -0.0],
            biases
        )
        #expect(found.wrong == 0)
        #expect(exponent == -126 || found.taken > 18 * 18 * 20)
    }

    @Test("F16", arguments: [-24, -14, -5, 3, 14])
    func half(_ exponent: Int) {
        let biases = numbers(11, -14...15) + [0, -0.0, 0x1p-24, -0x1p-24, .infinity, .nan]
        let scales = numbers(11, max(exponent, -14)...max(exponent, -14))
        let small: [Float] = exponent < -14 ? [0x1p-24, -0x1.8p-23, 0x1.fcp-16, 0, -0.0] : []
        let found = differences(RoundToHalf.self, exponent < -14 ? small : scales, biases)
        #expect(found.wrong == 0)
        #expect(exponent == 14 || found.taken > 100)
    }

    @Test("F32")
    func float() {
        let some: [Float] = [0, -0.0, 0.1, -3.7e30, 0x1p-133, .infinity]
        // of NaN, only that it is one
        let finite = some.filter(\.isFinite)
        #expect(differences(RoundToFloat.self, finite, finite).wrong == 0)
    }
}
