// TQ2_0: 256 weights of three levels in 2 bits, one scale.
//
//     66 bytes, 2.0625 bits per weight
//     ┌──────────────────────────────────────────────┬─────┐
//     │ qs                                        64 │ d 2 │
//     └──────────────────────────────────────────────┴─────┘
//
//     qs   2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l, + 32, + 64 and + 96,
//          low bits first
//     d    float16
//
//     w = d · (q - 1),   q = 0 … 3

#include "blocks.metal"

struct TQ2_0 : CrumbPlanes<TQ2_0> {
    static constant constexpr int weights = 256, bytes = 66, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block + 64);
        const Bytes<8> qs = load_bytes<8, 2>(block + 8 * part);
        UNROLL
        for (int p = 0; p < 4; ++p) {
            UNROLL
            for (int j = 0; j < 8; ++j) {
                q[8 * p + j] = qs.number(j, 2 * p, 2, 1);
            }
        }
    }
};
