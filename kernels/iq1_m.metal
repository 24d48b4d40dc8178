// IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight.
//
//     ┌───────────────────────────┬───────────────────────────┬──────────────────────────┐
//     │ low: 32 bytes, index bits │ high: 16 bytes, 4 bits    │ words: 4 uint16, one for │
//     │ 0-7 of 8 weights          │ for each 8 weights        │ each 64 weights          │
//     └───────────────────────────┴───────────────────────────┴──────────────────────────┘
//
//     4 bits of `high`   bits 0-2   index bits 8-10
//     (low half first)   bit 3      set where the shift is -1/8, clear where it is 1/8
//
//     a word             bits 0-2, 3-5, 6-8, 9-11   the scale codes l of 16 weights each
//                        bits 12-15                 4 bits of d (f16), the lowest in the first word
//
//     w = d · (2 l + 1) · (point + shift)
//
// The points are those of IQ1_S.

#include "codebook.metal"
#include "tables/IQ1_S_GRID.metal"

struct IQ1_M : InOrder<IQ1_M> {
    static constant constexpr int weights = 256, bytes = 56, align = 4, group = 16;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const uint low = load32<4>(block + 4 * part), high = load16<2>(block + 32 + 2 * part);
        const uint first = load32<4>(block + 48), second = load32<4>(block + 52);
        const float d = half_of(
            (first >> 12 & 0xF) | (first >> 24 & 0xF0) | (second >> 4 & 0xF00)
            | (second >> 16 & 0xF000)
        );
        const uint word = (part < 4 ? first : second) >> (16 * (part / 2 % 2)) >> (6 * (part % 2));
        UNROLL
        for (int g = 0; g < 4; ++g) {
            scales[g / 2] = d * float(2 * (word >> (3 * (g / 2)) & 7) + 1);
            const uint four = high >> (4 * g) & 15;
            const uint index = uint(byte_of(low, g)) | (four & 7) << 8;
            eight_shifted(IQ1_S_GRID[index], four >> 3, q + 8 * g);
        }
    }
};
