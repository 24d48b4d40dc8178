// Q4_0: 32 weights of 4 bits and one scale.
//
//     18 bytes, 4.5 bits per weight
//     ┌─────┬──────────────────────────┐
//     │ d 2 │ qs                    16 │
//     └─────┴──────────────────────────┘
//
//     d    float16
//     qs   byte j holds weight j (low nibble) and weight j + 16
//
//     w = d · (q - 8),   q = 0 … 15

#include "blocks.metal"

struct Q4_0 : InOrder<Q4_0> {
    static constant constexpr int weights = 32, bytes = 18, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const Bytes<16> qs = load_bytes<16, 2>(block + 2);
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = qs.number(j, 0, 4, 8);
            q[j + 16] = qs.number(j, 4, 4, 8);
        }
    }
};
