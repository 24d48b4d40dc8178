// Q1_0: 128 signs and one scale.
//
//     18 bytes, 1.125 bits per weight
//     ┌─────┬──────────────────────────┐
//     │ d 2 │ qs                    16 │
//     └─────┴──────────────────────────┘
//
//     d    float16
//     qs   bit j is the sign of weight j
//
//     w = d where the bit is 1, -d where it is 0

#include "blocks.metal"

struct Q1_0 : InOrder<Q1_0> {
    static constant constexpr int weights = 128, bytes = 18, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const uint qs = load32<2>(block + 2 + 4 * part);
        UNROLL
        for (int j = 0; j < 32; ++j) {
            q[j] = qs >> j & 1 ? 1.0f : -1.0f;
        }
    }
};
