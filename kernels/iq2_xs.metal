// IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight.
//
//     ┌──────┬──────────────────────────────┬──────────────────────────────┐
//     │ d  2 │ groups: 32 uint16, one for   │ scales: 8 bytes, two codes l │
//     │ f16  │ each 8 weights               │ of 4 bits each, low first    │
//     └──────┴──────────────────────────────┴──────────────────────────────┘
//
//     a group   bits 0-8    the index
//               bits 9-15   the signs of 7 weights, the 8th by parity
//
//     w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights

#include "codebook.metal"
#include "tables/IQ2_XS_GRID.metal"

struct IQ2_XS : InOrder<IQ2_XS> {
    static constant constexpr int weights = 256, bytes = 74, align = 2, group = 16;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const float d = load_half(block);
        const uint packed = block[66 + part];
        UNROLL
        for (int g = 0; g < 4; ++g) {
            const uint group = load16<2>(block + 2 + 8 * part + 2 * g);
            scales[g / 2] = d * (float(2 * (packed >> (4 * (g / 2)) & 15) + 1) * 0.125f);
            const uint point = 2 * (group & 511), mask = with_eighth(group >> 9);
            four_signed(IQ2_XS_GRID[point], mask, 0, q + 8 * g);
            four_signed(IQ2_XS_GRID[point + 1], mask, 4, q + 8 * g + 4);
        }
    }
};
