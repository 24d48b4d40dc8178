// MXFP4 as ggml stores it: the OCP Microscaling format, a scale and its 32 codes in one block.
//
//     17 bytes, 4.25 bits per weight
//     ┌─────┬──────────────────────────┐
//     │ e 1 │ qs                    16 │
//     └─────┴──────────────────────────┘
//
//     e    E8M0: 2^(e - 127)
//     qs   E2M1; byte j holds weight j (low nibble) and weight j + 16
//
//     w = 2^(e - 127) / 2 · twice the level

#include "e2m1.metal"

struct MXFP4 : InOrder<MXFP4> {
    static constant constexpr int weights = 32, bytes = 17, align = 1, group = 32;

    // 2^(e - 128): below e = 2 subnormal, and so with a fraction in place of the exponent.
    static float half_scale(uint e) {
        return as_type<float>(e < 2 ? 0x200000u << e : (e - 1) << 23);
    }

    static INLINED void codes(
        const device uchar* block, int, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = half_scale(block[0]);
        const Bytes<16> qs = load_bytes<16, 1>(block + 1);
        UNROLL
        for (int four = 0; four < 4; ++four) {
            four_e2m1(qs.words[four], 0, q + 4 * four);
            four_e2m1(qs.words[four], 1, q + 4 * four + 16);
        }
    }
};
