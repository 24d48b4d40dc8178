// IQ4_XS: 256 weights of 4 bits with the levels of IQ4_NL; eight sub-blocks of 32 with a 6-bit
// scale each.
//
//     136 bytes, 4.25 bits per weight
//     ┌─────┬──────────┬──────────┬──────────────────────────────────────────────┐
//     │ d 2 │scales_h 2│scales_l 4│ qs                                       128 │
//     └─────┴──────────┴──────────┴──────────────────────────────────────────────┘
//
//     d         float16, of either sign
//     scales_h  bits 2·s and 2·s + 1 are the upper two bits of scale s
//     scales_l  byte s holds the lower four of scale 2·s (low nibble) and of scale 2·s + 1
//     qs        byte 16·s + j holds weights j (low nibble) and j + 16 of sub-block s
//
//     w = d · (scale - 32) · level,   scale = 0 … 63

#include "blocks.metal"
#include "tables/IQ4_NL_LEVELS.metal"

struct IQ4_XS : InOrder<IQ4_XS> {
    static constant constexpr int weights = 256, bytes = 136, align = 4, group = 32;

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const uint high = load16<2>(block + 2) >> (2 * part) & 3;
        const uint low = load32<4>(block + 4) >> (4 * part) & 15;
        scales[0] = load_half(block) * float(int(low | high << 4) - 32);
        const Bytes<16> qs = load_bytes<16, 4>(block + 8 + 16 * part);
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = IQ4_NL_LEVELS[qs.bits(j, 0, 4)];
            q[j + 16] = IQ4_NL_LEVELS[qs.bits(j, 4, 4)];
        }
    }
};
