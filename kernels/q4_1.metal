// Q4_1: 32 weights of 4 bits, a scale and an offset.
//
//     20 bytes, 5 bits per weight
//     ┌─────┬─────┬──────────────────────────┐
//     │ d 2 │ m 2 │ qs                    16 │
//     └─────┴─────┴──────────────────────────┘
//
//     d, m float16
//     qs   byte j holds weight j (low nibble) and weight j + 16
//
//     w = d · q + m,   q = 0 … 15

#include "blocks.metal"

struct Q4_1 : InOrder<Q4_1> {
    static constant constexpr int weights = 32, bytes = 20, align = 4, group = 32;
    static constant constexpr bool biased = true;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales,
        thread float* biases
    ) {
        scales[0] = load_half(block);
        biases[0] = load_half(block + 2);
        const Bytes<16> qs = load_bytes<16, 4>(block + 4);
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = qs.number(j, 0, 4, 0);
            q[j + 16] = qs.number(j, 4, 4, 0);
        }
    }
};
