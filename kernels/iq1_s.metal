// IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight.
//
//     ┌──────┬───────────────────────────┬───────────────────────────┐
//     │ d  2 │ low: 32 bytes, index bits │ words: 8 uint16, one for  │
//     │ f16  │ 0-7 of 8 weights          │ each 32 weights           │
//     └──────┴───────────────────────────┴───────────────────────────┘
//
//     a word    bits 0-2, 3-5, 6-8, 9-11   index bits 8-10 of four groups of 8 weights
//               bits 12-14                 the scale code l
//               bit 15                     set where the shift is -1/8, clear where it is 1/8
//
//     w = d · (2 l + 1) · (point + shift)

#include "codebook.metal"
#include "tables/IQ1_S_GRID.metal"

struct IQ1_S : InOrder<IQ1_S> {
    static constant constexpr int weights = 256, bytes = 50, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const uint low = load32<2>(block + 2 + 4 * part), word = load16<2>(block + 34 + 2 * part);
        scales[0] = load_half(block) * float(2 * (word >> 12 & 7) + 1);
        UNROLL
        for (int g = 0; g < 4; ++g) {
            const uint index = uint(byte_of(low, g)) | (word >> (3 * g) & 7) << 8;
            eight_shifted(IQ1_S_GRID[index], word >> 15, q + 8 * g);
        }
    }
};
