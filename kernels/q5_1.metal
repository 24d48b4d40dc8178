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
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = float(qs.bits(j, 0, 4) | int(qh >> j & 1) << 4);
            q[j + 16] = float(qs.bits(j, 4, 4) | int(qh >> (j + 16) & 1) << 4);
        }
    }
};
