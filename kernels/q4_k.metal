// Q4_K: 256 weights of 4 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.
//
//     144 bytes, 4.5 bits per weight
//     ┌─────┬──────┬─────────────┬──────────────────────────────────────────────┐
//     │ d 2 │dmin 2│ scales   12 │ qs                                       128 │
//     └─────┴──────┴─────────────┴──────────────────────────────────────────────┘
//
//     d, dmin  float16
//     scales   see k_scales.metal
//     qs       4-bit planes of 32 bytes: byte l of run n holds weights 64·n + l (low nibble) and
//              64·n + l + 32
//
//     w = d · scale · q - dmin · min,   q = 0 … 15

#include "k_scales.metal"

struct Q4_K : NibblePlanes<Q4_K> {
    static constant constexpr int weights = 256, bytes = 144, align = 4, group = 16;
    static constant constexpr bool biased = true;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales,
        thread float* biases
    ) {
        const float d = load_half(block), dmin = load_half(block + 2);
        const KScales packed = load_k_scales(block + 4, part / 4);
        const Bytes<16> qs = load_bytes<16, 4>(block + 16 + 16 * part);
        UNROLL
        for (int p = 0; p < 2; ++p) {
            const int s = part / 2 % 2 * 2 + p;
            scales[p] = d * float(byte_of(packed.scales, s));
            biases[p] = -(dmin * float(byte_of(packed.mins, s)));
            UNROLL
            for (int j = 0; j < 16; ++j) {
                q[16 * p + j] = qs.number(j, 4 * p, 4, 0);
            }
        }
    }
};
