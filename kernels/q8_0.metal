// Q8_0: 32 weights of 8 bits and one scale.
//
//     34 bytes, 8.5 bits per weight
//     ┌─────┬──────────────────────────────────────────┐
//     │ d 2 │ qs                                    32 │
//     └─────┴──────────────────────────────────────────┘
//
//     d    float16
//     qs   int8
//
//     w = d · q,   q = -128 … 127

#include "blocks.metal"

struct Q8_0 : InOrder<Q8_0> {
    static constant constexpr int weights = 32, bytes = 34, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const Bytes<32> qs = load_bytes<32, 2>(block + 2);
        UNROLL
        for (int j = 0; j < 32; ++j) {
            q[j] = number_of(qs.words[j / 4] ^ 0x80808080, 8 * (j % 4), 8, 128);
        }
    }
};
