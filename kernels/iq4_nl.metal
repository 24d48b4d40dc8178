// IQ4_NL: 32 weights of 4 bits, which name levels that lie closer around zero, and one scale.
//
//     18 bytes, 4.5 bits per weight
//     ┌─────┬──────────────────────────┐
//     │ d 2 │ qs                    16 │
//     └─────┴──────────────────────────┘
//
//     d    float16, of either sign
//     qs   byte j holds weight j (low nibble) and weight j + 16
//
//     w = d · level

#include "blocks.metal"
#include "tables/IQ4_NL_LEVELS.metal"

struct IQ4_NL : InOrder<IQ4_NL> {
    static constant constexpr int weights = 32, bytes = 18, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block);
        const Bytes<16> qs = load_bytes<16, 2>(block + 2);
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = IQ4_NL_LEVELS[qs.bits(j, 0, 4)];
            q[j + 16] = IQ4_NL_LEVELS[qs.bits(j, 4, 4)];
        }
    }
};
