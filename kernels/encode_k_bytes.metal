// Where K-quants keep codes, scales and mins: mlxquant/formats/k_layout.py.

#include "encode.metal"

// Bits `shift` and up, as many as the mask has, of the whole numbers values + offset.
struct BitsOf {
    const thread Floats* values;
    float offset;
    int shift;
    uint mask;

    Words at(int i) const thread { return to_words(values[i] + offset) >> uint(shift) & mask; }
};

// `count` bytes of planes of codes from byte `at` on, a multiple of 4: byte l of run n holds codes
// (n · planes + p) · width + l, `bits` of each, in its bits p · bits and up.
template <int bits, int width, int count, typename Made>
inline void put_planes(thread Made& made, int at, BitsOf codes) {
    const int planes = 8 / bits;
    UNROLL
    for (int m = 0; m < count / 4; ++m) {
        const int first = 4 * m / width * planes * width + 4 * m % width;
        Words word = Words(0u);
        UNROLL
        for (int p = 0; p < planes; ++p) {
            UNROLL
            for (int t = 0; t < 4; ++t) {
                const Words code = codes.at(first + p * width + t);
                word = word | code << uint(8 * t + p * bits);
            }
        }
        made.put(at + 4 * m, word);
    }
}

// The twelve bytes of k_scales.metal.
template <typename Made>
inline void put_k_scales(
    thread Made& made, int at, const thread Floats* scales, const thread Floats* mins
) {
    UNROLL
    for (int j = 0; j < 4; ++j) {
        const Words scale = to_words(scales[j + 4]), low = to_words(mins[j + 4]);
        made.put(at + j, to_words(scales[j]) | scale >> 4u << 6u);
        made.put(at + 4 + j, to_words(mins[j]) | low >> 4u << 6u);
        made.put(at + 8 + j, (scale & 15u) | (low & 15u) << 4u);
    }
}
