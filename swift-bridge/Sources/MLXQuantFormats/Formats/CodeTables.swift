/// The codes of a byte as floats, by the byte: one load in place of shifts, masks and conversions. The
/// code in the lowest bits comes first.
///
/// Tables are made when they are first used, and stay where they are.
enum CodeTables {
    /// By four bits.
    nonisolated(unsafe) static let fourOfOneBit = table(16) { byte in
        SIMD4<Float>((0..<4).map { Float(byte >> $0 & 1) })
    }

    nonisolated(unsafe) static let fourOfTwoBits = table(256) { byte in
        SIMD4<Float>((0..<4).map { Float(byte >> (2 * $0) & 3) })
    }

    /// Codes less one.
    nonisolated(unsafe) static let fourOfThreeLevels = table(256) { byte in
        SIMD4<Float>((0..<4).map { Float(byte >> (2 * $0) & 3) - 1 })
    }

    nonisolated(unsafe) static let pairsOfThreeBits = pairs((0..<8).map { Float($0) })
    nonisolated(unsafe) static let pairsOfFourBits = pairs((0..<16).map { Float($0) })
    nonisolated(unsafe) static let pairsOfFiveBits = pairs((0..<32).map { Float($0) })

    /// Values of E4M3; 0x7F and 0xFF are NaN.
    nonisolated(unsafe) static let e4m3 = table(256) { byte in
        MLXQuantFormats.e4m3(UInt8(byte))
    }

    /// Levels of E2M1; -0 is a level.
    nonisolated(unsafe) static let pairsOfE2M1 = pairs([
        0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6,
    ])

    /// Twice the levels of E2M1; 0 has no sign.
    nonisolated(unsafe) static let pairsOfTwiceE2M1 = pairs([
        0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,
    ])

    nonisolated(unsafe) static let pairsOfIQ4NL = pairs((0..<16).map { Tables.iq4nlLevels[$0] })

    /// Values of two codes, of as many bits as there are values for.
    private static func pairs(_ values: [Float]) -> UnsafePointer<SIMD2<Float>> {
        table(values.count * values.count) { codes in
            SIMD2(values[codes % values.count], values[codes / values.count])
        }
    }

    /// By four bits: signs of four weights, set where a bit is.
    nonisolated(unsafe) static let fourSigns = table(16) { byte in
        SIMD4<UInt32>((0..<4).map { UInt32(byte >> $0 & 1) << 31 })
    }

    private static func table<Value>(
        _ count: Int,
        _ value: (Int) -> Value
    ) -> UnsafePointer<Value> {
        let memory = UnsafeMutablePointer<Value>.allocate(capacity: count)
        for index in 0..<count {
            (memory + index).initialize(to: value(index))
        }
        return UnsafePointer(memory)
    }
}

/// Eight values of the lowest four bytes of a word, two neighbours a byte.
@inline(__always)
func eight(_ word: UInt64, _ pairs: UnsafePointer<SIMD2<Float>>) -> SIMD8<Float> {
    let low = SIMD4(lowHalf: pairs[Int(word & 255)], highHalf: pairs[Int(word &>> 8 & 255)])
    let high = SIMD4(
        lowHalf: pairs[Int(word &>> 16 & 255)],
        highHalf: pairs[Int(word &>> 24 & 255)]
    )
    return SIMD8(lowHalf: low, highHalf: high)
}

/// Eight values of the lower halves of a word's bytes.
@inline(__always)
func eight(lowHalves word: UInt64, _ pairs: UnsafePointer<SIMD2<Float>>) -> SIMD8<Float> {
    // in every second byte, that of two neighbours
    let halves = word & 0x0F0F_0F0F_0F0F_0F0F
    let both = halves | halves &>> 4
    let low = SIMD4(lowHalf: pairs[Int(both & 255)], highHalf: pairs[Int(both &>> 16 & 255)])
    let high = SIMD4(
        lowHalf: pairs[Int(both &>> 32 & 255)],
        highHalf: pairs[Int(both &>> 48 & 255)]
    )
    return SIMD8(lowHalf: low, highHalf: high)
}
