// NVFP4 as ggml stores it: four groups of 16 in one block, each with a scale of its own.
//
//     36 bytes, 4.5 bits per weight
//     ┌─────┬──────────────────────────────────────────────┐
//     │ d 4 │ qs                                        32 │
//     └─────┴──────────────────────────────────────────────┘
//
//     d    byte s is the scale of group s: E4M3 without a sign; 0x7F is 0, 0xFF is 480
//     qs   E2M1; byte 8·s + j holds weights j (low nibble) and j + 8 of group s
//
//     w = d / 2 · twice the level

#include "e2m1.metal"

struct NVFP4 : InOrder<NVFP4> {
    static constant constexpr int weights = 64, bytes = 36, align = 4, group = 16;

    // E4M3's bits are those of a float16 with another bias: 2^8 times as large, subnormal ones too.
    static float half_scale(uint code) {
        return code == 0x7F ? 0.0f : half_of((code & 0x7F) << 7) * 128.0f;
    }

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        const uint packed = load16<2>(block + 2 * part);
        const Bytes<16> qs = load_bytes<16, 4>(block + 4 + 16 * part);
        UNROLL
        for (int g = 0; g < 2; ++g) {
            scales[g] = half_scale(packed >> (8 * g) & 255);
            UNROLL
            for (int four = 0; four < 2; ++four) {
                four_e2m1(qs.words[2 * g + four], 0, q + 16 * g + 4 * four);
                four_e2m1(qs.words[2 * g + four], 1, q + 16 * g + 4 * four + 8);
            }
        }
    }
};
