// TQ1_0: 256 weights of three levels, five to a byte, one scale.
//
//     54 bytes, 1.6875 bits per weight
//     ┌───────────────────────────────────────────┬──────┬─────┐
//     │ qs                                     48 │ qh 4 │ d 2 │
//     └───────────────────────────────────────────┴──────┴─────┘
//
//     qs   byte l of the first 32 holds weights l, l + 32, … l + 128; byte l of the last 16 holds
//          weights 160 + l, + 16, … + 64
//     qh   byte l holds weights 240 + l, + 4, + 8 and + 12
//     d    float16
//
//     w = d · (t - 1),   t = 0, 1, 2: digit i of a byte is ((byte · 3^i mod 256) · 3) div 256
//
//     part 0 … 4   digit i of the first 32 bytes
//     part 5, 6    digits 0 and 1, 2 and 3 of the last 16
//     part 7       digit 4 of the last 16, and all of qh

#include "blocks.metal"

struct TQ1_0 : InOrder<TQ1_0> {
    static constant constexpr int weights = 256, bytes = 54, align = 2, group = 32;

    // 3^i: byte i of 81, 27, 9, 3, 1.
    static uint power_of_three(int i) { return uint(0x511B090301ul >> (8 * i) & 255); }

    static float level(int byte, uint power) {
        return float(int((uint(byte) * power & 255) * 3 >> 8) - 1);
    }

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block + 52);
        if (part < 5) {
            const Bytes<32> qs = load_bytes<32, 2>(block);
            const uint power = power_of_three(part);
            UNROLL
            for (int j = 0; j < 32; ++j) {
                q[j] = level(qs.bits(j, 0, 8), power);
            }
            return;
        }
        const Bytes<16> qs = load_bytes<16, 2>(block + 32);
        const int digit = 2 * (part - 5);
        UNROLL
        for (int j = 0; j < 16; ++j) {
            q[j] = level(qs.bits(j, 0, 8), power_of_three(digit));
        }
        if (part < 7) {
            UNROLL
            for (int j = 0; j < 16; ++j) {
                q[16 + j] = level(qs.bits(j, 0, 8), power_of_three(digit + 1));
            }
            return;
        }
        const Bytes<4> qh = load_bytes<4, 2>(block + 48);
        UNROLL
        for (int i = 0; i < 4; ++i) {
            UNROLL
            for (int j = 0; j < 4; ++j) {
                q[16 + 4 * i + j] = level(qh.bits(j, 0, 8), power_of_three(i));
            }
        }
    }
};
