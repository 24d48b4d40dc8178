// IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight.
//
//     ┌──────┬──────────────────────────┬──────────────────────────┐
//     │ d  2 │ index: 64 bytes, one for │ words: 8 uint32, one for │
//     │ f16  │ each 4 weights           │ each 32 weights          │
//     └──────┴──────────────────────────┴──────────────────────────┘
//
//     a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
//               bits 28-31                     the scale code l
//
//     w = d · (2 l + 1) / 4 · point · sign

#include "codebook.metal"
#include "tables/IQ3_XXS_GRID.metal"

struct IQ3_XXS : InOrder<IQ3_XXS> {
    static constant constexpr int weights = 256, bytes = 98, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const Bytes<8> index = load_bytes<8, 2>(block + 2 + 8 * part);
        const uint word = load32<2>(block + 66 + 4 * part);
        scales[0] = load_half(block) * (float(2 * (word >> 28) + 1) * 0.25f);
        UNROLL
        for (int g = 0; g < 4; ++g) {
            const uint mask = with_eighth(word >> (7 * g) & 127);
            UNROLL
            for (int side = 0; side < 2; ++side) {
                const uint point = IQ3_XXS_GRID[index.bits(2 * g + side, 0, 8)];
                four_signed(point, mask, 4 * side, q + 8 * g + 4 * side);
            }
        }
    }
};
