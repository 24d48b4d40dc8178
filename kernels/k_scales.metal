// The 6-bit scales and mins of Q4_K and Q5_K: twelve bytes for eight sub-blocks, j = 0 … 3.
//
//     byte j        bits 5-0 scale j            bits 7-6 high bits of scale j + 4
//     byte j + 4    bits 5-0 min j              bits 7-6 high bits of min j + 4
//     byte j + 8    bits 3-0 low of scale j + 4 bits 7-4 low of min j + 4

#include "blocks.metal"

// Of four sub-blocks, a byte each.
struct KScales {
    uint scales;
    uint mins;
};

// Sub-blocks 0 to 3 (upper = 0) or 4 to 7 (upper = 1) of the twelve bytes at a multiple of 4.
inline KScales load_k_scales(const device uchar* at, int upper) {
    const Bytes<12> packed = load_bytes<12, 4>(at);
    const uint first = packed.words[0], second = packed.words[1], third = packed.words[2];
    KScales found;
    if (upper == 0) {
        found.scales = first & 0x3F3F3F3F;
        found.mins = second & 0x3F3F3F3F;
    } else {
        found.scales = (third & 0x0F0F0F0F) | (first >> 2 & 0x30303030);
        found.mins = (third >> 4 & 0x0F0F0F0F) | (second >> 2 & 0x30303030);
    }
    return found;
}
