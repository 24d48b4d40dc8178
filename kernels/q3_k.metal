// Q3_K: 256 weights of 3 bits; sixteen sub-blocks of 16 with a 6-bit scale each.
//
//     110 bytes, 3.4375 bits per weight
//     ┌──────────────────────┬────────────────────────────────────────┬─────────────┬─────┐
//     │ hmask             32 │ qs                                  64 │ scales   12 │ d 2 │
//     └──────────────────────┴────────────────────────────────────────┴─────────────┴─────┘
//
//     hmask    the high bit of code + 4, in 1-bit planes of 32 bytes: byte l, bit p is weight
//              32·p + l
//     qs       the low two, in 2-bit planes of 32 bytes: byte l of run n holds weights
//              128·n + l + 0, 32, 64, 96, lowest bits first
//     scales   scale + 32: low four bits in 4-bit planes of 8 bytes, high two in 2-bit planes of 4
//
//                  byte j < 8        bits 3-0 sub-block j         bits 7-4 sub-block j + 8
//                  byte 8 + j        bits 2p+1, 2p: sub-block j + 4·p
//     d        float16
//
//     w = d · scale · q,   q = -4 … 3,  scale = -32 … 31

#include "blocks.metal"

struct Q3_K : CrumbPlanes<Q3_K> {
    static constant constexpr int weights = 256, bytes = 110, align = 2, group = 8;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const int n = part / 4, upper = part / 2 % 2;
        const float d = load_half(block + 108);
        const Bytes<8> hmask = load_bytes<8, 2>(block + 8 * (part % 4)).down(4 * n);
        const Bytes<8> qs = load_bytes<8, 2>(block + 32 + 8 * part);
        const Bytes<12> packed = load_bytes<12, 2>(block + 96);
        UNROLL
        for (int p = 0; p < 4; ++p) {
            // sub-block 8·n + s
            const int s = 2 * p + upper;
            const int low = packed.bits(s, 4 * n, 4);
            const int high = packed.bits(8 + s % 4, 2 * (2 * n + s / 4), 2);
            scales[p] = d * float((low | high << 4) - 32);
            const Bytes<8> codes = qs.moved(2 * p, 2, 0) | hmask.moved(p, 1, 2);
            UNROLL
            for (int j = 0; j < 8; ++j) {
                q[8 * p + j] = codes.number(j, 0, 3, 4);
            }
        }
    }
};
