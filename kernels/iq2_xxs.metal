// IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight.
//
//     ┌──────┬─────────────────────────────────────────────────────┐
//     │ d  2 │ pairs: 64 bytes, 8 for each 32 weights              │
//     │ f16  │ ┌──────────────────────────┬──────────────────────┐ │
//     │      │ │ index: 4 bytes, one for  │ word: uint32         │ │
//     │      │ │ each 8 weights           │                      │ │
//     │      │ └──────────────────────────┴──────────────────────┘ │
//     └──────┴─────────────────────────────────────────────────────┘
//
//     a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
//               bits 28-31                     the scale code l
//
//     w = d · (2 l + 1) / 8 · point · sign

#include "codebook.metal"
#include "tables/IQ2_XXS_GRID.metal"

struct IQ2_XXS : InOrder<IQ2_XXS> {
    static constant constexpr int weights = 256, bytes = 66, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const uint index = load32<2>(block + 2 + 8 * part);
        const uint word = load32<2>(block + 6 + 8 * part);
        scales[0] = load_half(block) * (float(2 * (word >> 28) + 1) * 0.125f);
        UNROLL
        for (int g = 0; g < 4; ++g) {
            const int point = 2 * byte_of(index, g);
            const uint mask = with_eighth(word >> (7 * g) & 127);
            four_signed(IQ2_XXS_GRID[point], mask, 0, q + 8 * g);
            four_signed(IQ2_XXS_GRID[point + 1], mask, 4, q + 8 * g + 4);
        }
    }
};
