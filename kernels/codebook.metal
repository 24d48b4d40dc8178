// What the formats with codebooks (IQ1, IQ2, IQ3) share: signs, and points.
//
// The tables hold a point's coordinates in a byte each, the first one lowest (IQ1_S: in 2 bits, one
// more than the coordinate).

#include "blocks.metal"

// Of seven signs, the eighth makes the number of negative weights even.
inline uint with_eighth(uint seven) {
    return seven | (popcount(seven) & 1) << 7;
}

// The value, negated where bit j of the mask is set.
inline float signed_by(float value, uint mask, int j) {
    return as_type<float>(as_type<uint>(value) ^ (mask << (31 - j) & 0x80000000));
}

// Four codes: a point's coordinates, with signs from bit `at` of the mask on.
inline void four_signed(uint point, uint mask, int at, thread float* q) {
    UNROLL
    for (int j = 0; j < 4; ++j) {
        q[j] = signed_by(number_of(point, 8 * j, 8, 0), mask, at + j);
    }
}

// Eight codes of a point of IQ1_S: coordinate ± 1/8.
inline void eight_shifted(uint point, uint negative, thread float* q) {
    const float shift = negative ? -0.125f : 0.125f;
    UNROLL
    for (int j = 0; j < 8; ++j) {
        q[j] = number_of(point, 2 * j, 2, 1) + shift;
    }
}
