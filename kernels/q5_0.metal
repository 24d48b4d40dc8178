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
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = float((qs.bits(j, 0, 4) | int(qh >> j & 1) << 4) - 16);
            q[j + 16] = float((qs.bits(j, 4, 4) | int(qh >> (j + 16) & 1) << 4) - 16);
        }
    }
};
