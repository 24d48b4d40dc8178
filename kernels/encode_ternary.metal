// Encodes TQ1_0 and TQ2_0: mlxquant/formats/tq1_0.py, tq2_0.py. Importance changes nothing.
//
//     thread        LANES blocks, as encode.metal says
//     d             the largest |w|

#include "encode_plain.metal"

struct TQ1_0;
struct TQ2_0;

// How digits 0, 1 and 2 of 256 weights come into a block.
template <typename Format>
struct Ternary;

template <>
struct Ternary<TQ1_0> {
    // `count` digits to a byte, of weights `size` apart: a fraction of 243, rounded up.
    template <typename Made>
    static void put_run(
        thread Made& made, int at, int size, int count, const thread Words* digits
    ) {
        for (int j = 0; j < size; ++j) {
            Words number = Words(0u);
            for (int i = 0; i < 5; ++i) {
                number = number * 3u;
                if (i < count) {
                    number = number + digits[size * i + j];
                }
            }
            made.put(at + j, (number * 256u + 242u) / 243u);
        }
    }

    template <typename Made>
    static void put(thread Made& made, const thread Words* digits, Words d) {
        put_run(made, 0, 32, 5, digits);
        put_run(made, 32, 16, 5, digits + 160);
        put_run(made, 48, 4, 4, digits + 240);
        made.put(52, d);
    }
};

template <>
struct Ternary<TQ2_0> {
    template <typename Made>
    static void put(thread Made& made, const thread Words* digits, Words d) {
        for (int j = 0; j < 64; ++j) {
            const thread Words* run = digits + j / 32 * 128 + j % 32;
            made.put(j, run[0] | run[32] << 2u | run[64] << 4u | run[96] << 6u);
        }
        made.put(64, d);
    }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float*, uint, ulong count, device uchar* wire, ulong at
) {
    Floats x[256];
    load_blocks<Format>(x, rows, at * LANES, count);
    const Floats scale = largest_magnitude<256>(x);
    const Floats per_step = inverse_of(scale);
    const Mask lost = overflows(scale);
    Words digits[256];
    for (int i = 0; i < 256; ++i) {
        const Words digit = round_half_away(x[i] * per_step) + 1u;
        digits[i] = lost ? Words(1u) : digit;
    }
    Wire<Format> made;
    made.clear();
    Ternary<Format>::put(made, digits, half_bits(scale));
    made.store(wire, at * LANES, count);
}
