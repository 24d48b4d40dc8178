// What encoders that round plainly share: mlxquant/formats/legacy.py.

#include "encode.metal"

// 1 / scale, and 0 where it is 0 or where the quotient overflows.
inline Floats inverse_of(Floats scale) {
    const Floats quotient = 1.0f / scale;
    return magnitude(quotient) == INFINITY ? Floats(0.0f) : quotient;
}

// Whether there is no finite inverse, though it is not 0, or the scale is infinite.
inline Mask overflows(Floats scale) {
    const Mask lost = (magnitude(1.0f / scale) == INFINITY) & (scale != 0.0f);
    return lost | (magnitude(scale) == INFINITY);
}

// The largest |w|; never -0.
template <int size>
inline Floats largest_magnitude(const thread Floats* weights) {
    Floats largest = Floats(0.0f);
    for (int i = 0; i < size; ++i) {
        largest = larger(magnitude(weights[i]), largest);
    }
    return largest;
}

// The first weight of largest magnitude; never -0.
template <int size>
inline Floats extreme_of(const thread Floats* weights) {
    Floats largest = Floats(0.0f), extreme = Floats(0.0f);
    for (int i = 0; i < size; ++i) {
        const Mask beyond = magnitude(weights[i]) > largest;
        largest = beyond ? magnitude(weights[i]) : largest;
        extreme = beyond ? weights[i] : extreme;
    }
    return extreme;
}

// The nearest whole number, half away from zero, |value| < 127.5, as two's complement.
inline Words round_half_away(Floats values) {
    const float below_half = 0.5f - 0x1p-25f;
    const Words size = to_words(magnitude(values) + below_half);
    return values < 0.0f ? 0u - size : size;
}

// The nearest float16 that is finite.
inline Floats clipped_half(Floats values) {
    const Floats above = values < -65504.0f ? Floats(-65504.0f) : values;
    return through_half(above > 65504.0f ? Floats(65504.0f) : above);
}

// Codes and scales of 32 weights around zero, as `round_symmetric` has them.
template <int half_>
struct Symmetric {
    Floats scale, per_step;
    Mask lost;

    void fit(const thread Floats* x) thread {
        scale = extreme_of<32>(x) / float(-half_);
        per_step = inverse_of(scale);
        lost = overflows(scale);
    }

    Floats code(Floats x) const thread {
        const Floats code = smaller(
            floor_of(x * per_step + (float(half_) + 0.5f)), Floats(float(2 * half_ - 1))
        );
        return lost ? Floats(0.0f) : code;
    }
};

// Codes, scales and offsets of 32 weights, as `round_affine` has them.
template <int top>
struct Affine {
    Floats scale, low, per_step;
    Mask lost;

    void fit(const thread Floats* x) thread {
        // of zeros of both signs the first counts
        Floats high = x[0];
        low = x[0];
        for (int i = 1; i < 32; ++i) {
            high = larger(x[i], high);
            low = smaller(x[i], low);
        }
        scale = (high - low + 0.0f) / float(top);
        per_step = inverse_of(scale);
        lost = overflows(scale);
    }

    Floats code(Floats x) const thread {
        const Floats code = smaller(floor_of((x - low) * per_step + 0.5f), Floats(float(top)));
        return lost ? Floats(0.0f) : code;
    }
};

// 32 codes of 4 bits from byte `at` on: byte j holds code j (low nibble) and code j + 16.
template <typename Made>
inline void put_nibbles(thread Made& made, int at, const thread Words* codes) {
    UNROLL
    for (int j = 0; j < 16; ++j) {
        made.put(at + j, (codes[j] & 15u) | (codes[j + 16] & 15u) << 4u);
    }
}

// 32 codes of 5 bits: four bytes of fifth bits, then the nibbles.
template <typename Made>
inline void put_fives(thread Made& made, int at, const thread Words* codes) {
    UNROLL
    for (int byte = 0; byte < 4; ++byte) {
        Words fifths = Words(0u);
        UNROLL
        for (int j = 0; j < 8; ++j) {
            fifths = fifths | (codes[8 * byte + j] >> 4u) << uint(j);
        }
        made.put(at + byte, fifths);
    }
    put_nibbles(made, at + 4, codes);
}
