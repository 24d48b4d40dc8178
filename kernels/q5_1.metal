// Q5_1: 32 weights of 5 bits, a scale and an offset.
//
//     24 bytes, 6 bits per weight
//     ┌─────┬─────┬──────┬──────────────────────────┐
//     │ d 2 │ m 2 │ qh 4 │ qs                    16 │
//     └─────┴─────┴──────┴──────────────────────────┘
//
//     d, m float16
//     qh   bit j is the fifth bit of weight j
//     qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16
//
//     w = d · q + m,   q = 0 … 31

#include "blocks.metal"

struct Q5_1 : InOrder<Q5_1> {
    static constant constexpr int weights = 32, bytes = 24, align = 4, group = 32;
    static constant constexpr bool biased = true;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales,
        thread float* biases
    ) {
        scales[0] = load_half(block);
        biases[0] = load_half(block + 2);
        const uint qh = load32<4>(block + 4);
        const Bytes<16> qs = load_bytes<16, 4>(block + 8);
        const Bytes<16> low = qs.moved(0, 4, 0), upper = qs.moved(4, 4, 0);
        UNROLL
        for (int four = 0; four < 4; ++four) {
            const uint first = low.words[four] | spread(qh >> (4 * four), 4);
            const uint second = upper.words[four] | spread(qh >> (4 * four + 16), 4);
            UNROLL
            for (int j = 0; j < 4; ++j) {
                q[4 * four + j] = number_of(first, 8 * j, 5, 0);
                q[4 * four + j + 16] = number_of(second, 8 * j, 5, 0);
            }
        }
    }
};
