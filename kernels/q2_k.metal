// Q2_K: 256 weights of 2 bits; sixteen sub-blocks of 16 with a 4-bit scale and a 4-bit min each.
//
//     84 bytes, 2.625 bits per weight
//     ┌────────────────┬──────────────────────────────────────────┬─────┬──────┐
//     │ scales      16 │ qs                                    64 │ d 2 │dmin 2│
//     └────────────────┴──────────────────────────────────────────┴─────┴──────┘
//
//     scales   byte j: sub-block j's scale in the low nibble, its min in the high one
//     qs       2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l + 0, 32, 64, 96,
//              lowest bits first
//     d, dmin  float16
//
//     w = d · scale · q - dmin · min,   q = 0 … 3

#include "blocks.metal"

struct Q2_K : CrumbPlanes<Q2_K> {
    static constant constexpr int weights = 256, bytes = 84, align = 4, group = 8;
    static constant constexpr bool biased = true;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales,
        thread float* biases
    ) {
        const float d = load_half(block + 80), dmin = load_half(block + 82);
        const Bytes<8> packed = load_bytes<8, 4>(block + 8 * (part / 4));
        const Bytes<8> qs = load_bytes<8, 4>(block + 16 + 8 * part);
        const int upper = part / 2 % 2;
        UNROLL
        for (int p = 0; p < 4; ++p) {
            scales[p] = d * float(packed.bits(2 * p + upper, 0, 4));
            biases[p] = -(dmin * float(packed.bits(2 * p + upper, 4, 4)));
            UNROLL
            for (int j = 0; j < 8; ++j) {
                q[8 * p + j] = qs.number(j, 2 * p, 2, 0);
            }
        }
    }
};
