// Q5_0: 32 weights of 5 bits and one scale.
//
//     22 bytes, 5.5 bits per weight
//     ┌─────┬──────┬──────────────────────────┐
//     │ d 2 │ qh 4 │ qs                    16 │
//     └─────┴──────┴──────────────────────────┘
//
//     d    float16
//     qh   bit j is the fifth bit of weight j
//     qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16
//
//     w = d · (q - 16),   q = 0 … 31

#include "blocks.metal"

struct Q5_0 : InOrder<Q5_0> {
    static constant constexpr int weights = 32, bytes = 22, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const uint qh = load32<2>(block + 2);
        const Bytes<16> qs = load_bytes<16, 2>(block + 6);
        const Bytes<16> low = qs.moved(0, 4, 0), upper = qs.moved(4, 4, 0);
        UNROLL
        for (int four = 0; four < 4; ++four) {
            const uint first = low.words[four] | spread(qh >> (4 * four), 4);
            const uint second = upper.words[four] | spread(qh >> (4 * four + 16), 4);
            UNROLL
            for (int j = 0; j < 4; ++j) {
                q[4 * four + j] = number_of(first, 8 * j, 5, 16);
                q[4 * four + j + 16] = number_of(second, 8 * j, 5, 16);
            }
        }
    }
};
