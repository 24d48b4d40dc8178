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

#include "blocks.metal"
#include "tables/TWICE_E2M1.metal"

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
        for (int j = 0; j < 16; ++j) {
            q[j] = TWICE_E2M1[qs.bits(j, 0, 4)];
            q[j + 16] = TWICE_E2M1[qs.bits(j, 4, 4)];
        }
    }
};
