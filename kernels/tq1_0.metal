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

    // Of four bytes the digit that the power of three moves up, two bytes at a time.
    static void four_levels(uint word, uint power, thread float* q) {
        const uint even = ((word & 0xFF00FF) * power & 0xFF00FF) * 3;
        const uint odd = ((word >> 8 & 0xFF00FF) * power & 0xFF00FF) * 3;
        q[0] = number_of(even, 8, 2, 1);
        q[1] = number_of(odd, 8, 2, 1);
        q[2] = number_of(even, 24, 2, 1);
        q[3] = number_of(odd, 24, 2, 1);
    }

    static INLINED void codes(
        const device uchar* block, int part, thread float* q, thread float* scales, thread float*
    ) {
        scales[0] = load_half(block + 52);
        if (part < 5) {
            const Bytes<32> qs = load_bytes<32, 2>(block);
            const uint power = power_of_three(part);
            UNROLL
            for (int four = 0; four < 8; ++four) {
                four_levels(qs.words[four], power, q + 4 * four);
            }
            return;
        }
        const Bytes<16> qs = load_bytes<16, 2>(block + 32);
        const int digit = 2 * (part - 5);
        UNROLL
        for (int four = 0; four < 4; ++four) {
            four_levels(qs.words[four], power_of_three(digit), q + 4 * four);
        }
        if (part < 7) {
            UNROLL
            for (int four = 0; four < 4; ++four) {
                four_levels(qs.words[four], power_of_three(digit + 1), q + 16 + 4 * four);
            }
            return;
        }
        const uint qh = load32<2>(block + 48);
        UNROLL
        for (int four = 0; four < 4; ++four) {
            four_levels(qh, power_of_three(four), q + 16 + 4 * four);
        }
    }
};
