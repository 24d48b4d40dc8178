// Encodes IQ4_NL: mlxquant/formats/iq4_nl.py.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_levels.metal"

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    const ulong first = at * LANES;
    Searched<32, weighted> block;
    load_blocks<Format>(block.x, rows, first, count);
    if (weighted) {
        load_importance<Format>(block.v, importance, columns, first, count);
        block.weigh(block.largest());
    }
    const UnevenLevels levels = {};
    const Floats scale = refined(block, levels, best_scale(block, levels)).scale;
    const Floats per_step = inverse_of(scale);
    Words codes[32];
    UNROLL
    for (int i = 0; i < 32; ++i) {
        codes[i] = levels.code(block.x[i] * per_step);
    }
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(scale));
    put_nibbles(made, 2, codes);
    made.store(wire, first, count);
}
