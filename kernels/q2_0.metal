// Q2_0: 64 weights of 2 bits and one scale.
//
//     18 bytes, 2.25 bits per weight
//     ┌─────┬──────────────────────────┐
//     │ d 2 │ qs                    16 │
//     └─────┴──────────────────────────┘
//
//     d    float16
//     qs   four codes a byte, low bits first
//
//     w = d · (q - 1),   q = 0 … 3

#include "blocks.metal"

struct Q2_0 : InOrder<Q2_0> {
    static constant constexpr int weights = 64, bytes = 18, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const Bytes<8> qs = load_bytes<8, 2>(block + 2 + 8 * part);
        UNROLL
        for (int j = 0; j < 32; ++j) {
            q[j] = qs.number(j / 4, j % 4 * 2, 2, 1);
        }
    }
};
