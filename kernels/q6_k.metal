// Q6_K: 256 weights of 6 bits; sixteen sub-blocks of 16 with an 8-bit scale each.
//
//     210 bytes, 6.5625 bits per weight
//     ┌────────────────────────────────────────┬──────────────────────┬─────────────┬─────┐
//     │ ql                                 128 │ qh                64 │ scales   16 │ d 2 │
//     └────────────────────────────────────────┴──────────────────────┴─────────────┴─────┘
//
//     ql       the low four bits of code + 32, in 4-bit planes of 64 bytes: byte l of run n holds
//              weights 128·n + l (low nibble) and 128·n + l + 64
//     qh       its high two, in 2-bit planes of 32 bytes: byte l of run n holds weights
//              128·n + l + 0, 32, 64, 96, lowest bits first
//     scales   int8
//     d        float16
//
//     w = d · scale · q,   q = -32 … 31

#include "blocks.metal"

struct Q6_K : CrumbPlanes<Q6_K> {
    static constant constexpr int weights = 256, bytes = 210, align = 2, group = 8;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const int n = part / 4, l = 8 * (part % 4), upper = part / 2 % 2;
        const float d = load_half(block + 208);
        const Bytes<8> packed = load_bytes<8, 2>(block + 192 + 8 * n);
        const Bytes<8> qh = load_bytes<8, 2>(block + 128 + 8 * part);
        UNROLL
        for (int side = 0; side < 2; ++side) {
            const Bytes<8> ql = load_bytes<8, 2>(block + 64 * n + 32 * side + l);
            UNROLL
            for (int nibble = 0; nibble < 2; ++nibble) {
                const int p = 2 * nibble + side;
                scales[p] = d * float(char(packed.bits(2 * p + upper, 0, 8)));
                const Bytes<8> codes = ql.moved(4 * nibble, 4, 0) | qh.moved(2 * p, 2, 4);
                UNROLL
                for (int j = 0; j < 8; ++j) {
                    q[8 * p + j] = codes.number(j, 0, 6, 32);
                }
            }
        }
    }
};
