// Q5_K: 256 weights of 5 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.
//
//     176 bytes, 5.5 bits per weight
//     ┌─────┬──────┬─────────────┬──────────────┬──────────────────────────────────────────────┐
//     │ d 2 │dmin 2│ scales   12 │ qh        32 │ qs                                       128 │
//     └─────┴──────┴─────────────┴──────────────┴──────────────────────────────────────────────┘
//
//     d, dmin  float16
//     scales   see k_scales.metal
//     qh       the code's high bit, in 1-bit planes of 32 bytes: byte l, bit p is weight 32·p + l
//     qs       its low four, in 4-bit planes of 32 bytes: byte l of run n holds weights
//              64·n + l (low nibble) and 64·n + l + 32
//
//     w = d · scale · q - dmin · min,   q = 0 … 31

#include "k_scales.metal"

struct Q5_K : CrumbPlanes<Q5_K> {
    static constant constexpr int weights = 256, bytes = 176, align = 4, group = 8;
    static constant constexpr bool biased = true;

    // Two runs of qs are four planes of weights: the same parts as of 2-bit planes.
    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales,
        thread float* biases
    ) {
        const int n = part / 4, l = 8 * (part % 4);
        const float d = load_half(block), dmin = load_half(block + 2);
        const KScales packed = load_k_scales(block + 4, n);
        const Bytes<8> qh = load_bytes<8, 4>(block + 16 + l).down(4 * n);
        UNROLL
        for (int run = 0; run < 2; ++run) {
            const Bytes<8> qs = load_bytes<8, 4>(block + 48 + 64 * n + 32 * run + l);
            UNROLL
            for (int p = 2 * run; p < 2 * run + 2; ++p) {
                scales[p] = d * float(byte_of(packed.scales, p));
                biases[p] = -(dmin * float(byte_of(packed.mins, p)));
                const Bytes<8> codes = qs.moved(4 * (p % 2), 4, 0) | qh.moved(p, 1, 4);
                UNROLL
                for (int j = 0; j < 8; ++j) {
                    q[8 * p + j] = codes.number(j, 0, 5, 0);
                }
            }
        }
    }
};
