// IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight.
//
//     ┌──────┬────────────────┬─────────────────┬─────────────────┬──────────────────────────┐
//     │ d  2 │ low: 64 bytes, │ high: 8 bytes,  │ signs: 32 bytes │ scales: 4 bytes, two     │
//     │ f16  │ index bits 0-7 │ index bit 8 of  │ one bit a       │ codes l of 4 bits each,  │
//     │      │ of 4 weights   │ 32 weights      │ weight          │ low first                │
//     └──────┴────────────────┴─────────────────┴─────────────────┴──────────────────────────┘
//
//     a byte of `high`    one bit for each of eight groups of 4 weights, low bits first
//
//     w = d · (2 l + 1) · point · sign        l for each 32 weights

#include "codebook.metal"
#include "tables/IQ3_S_GRID.metal"

struct IQ3_S : InOrder<IQ3_S> {
    static constant constexpr int weights = 256, bytes = 110, align = 2, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const Bytes<8> low = load_bytes<8, 2>(block + 2 + 8 * part);
        const uint high = block[66 + part], signs = load32<2>(block + 74 + 4 * part);
        const uint l = block[106 + part / 2] >> (4 * (part % 2)) & 15;
        scales[0] = load_half(block) * float(2 * l + 1);
        UNROLL
        for (int g = 0; g < 8; ++g) {
            const uint point = IQ3_S_GRID[low.bits(g, 0, 8) | int(high >> g & 1) << 8];
            four_signed(point, signs, 4 * g, q + 4 * g);
        }
    }
};
