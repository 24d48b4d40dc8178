// IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight.
//
//     ┌──────┬────────────────┬─────────────────┬────────────────┬───────────────────────────┐
//     │ d  2 │ low: 32 bytes, │ signs: 32 bytes │ high: 8 bytes, │ scales: 8 bytes, two      │
//     │ f16  │ index bits 0-7 │ one bit a       │ index bits 8-9 │ codes l of 4 bits each,   │
//     │      │ of 8 weights   │ weight          │ of 32 weights  │ low first                 │
//     └──────┴────────────────┴─────────────────┴────────────────┴───────────────────────────┘
//
//     a byte of `high`    two bits for each of four groups of 8 weights, low bits first
//
//     w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights

#include "codebook.metal"
#include "tables/IQ2_S_GRID.metal"

struct IQ2_S : InOrder<IQ2_S> {
    static constant constexpr int weights = 256, bytes = 82, align = 2, group = 16;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const float d = load_half(block);
        const uint low = load32<2>(block + 2 + 4 * part), signs = load32<2>(block + 34 + 4 * part);
        const uint high = block[66 + part], packed = block[74 + part];
        UNROLL
        for (int g = 0; g < 4; ++g) {
            scales[g / 2] = d * (float(2 * (packed >> (4 * (g / 2)) & 15) + 1) * 0.125f);
            const uint point = 2 * (uint(byte_of(low, g)) | (high >> (2 * g) & 3) << 8);
            const uint mask = uint(byte_of(signs, g));
            four_signed(IQ2_S_GRID[point], mask, 0, q + 8 * g);
            four_signed(IQ2_S_GRID[point + 1], mask, 4, q + 8 * g + 4);
        }
    }
};
