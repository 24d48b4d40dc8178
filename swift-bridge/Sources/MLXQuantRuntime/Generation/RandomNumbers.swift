/// Random numbers that a seed makes the same on every machine: xoshiro256**, seeded by SplitMix64.
///
/// Sources: <https://prng.di.unimi.it/xoshiro256starstar.c>, <https://prng.di.unimi.it/splitmix64.c>
struct RandomNumbers: RandomNumberGenerator, Sendable {
    private var state: SIMD4<UInt64>

    init(seed: UInt64) {
        var mixed = seed
        state = .zero
        for index in 0..<4 {
            mixed &+= 0x9E37_79B9_7F4A_7C15
            var value = mixed
            value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
            value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
            state[index] = value ^ value >> 31
        }
    }

    mutating func next() -> UInt64 {
        func rotated(_ value: UInt64, _ by: UInt64) -> UInt64 { value << by | value >> (64 - by) }
        let result = rotated(state[1] &* 5, 7) &* 9
        let shifted = state[1] << 17
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= shifted
        state[3] = rotated(state[3], 45)
        return result
    }

    /// A number from 0 up to 1, of 53 bits.
    mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}
