// Encodes Q8_0: mlxquant/formats/q8_0.py. Importance changes nothing.
//
//     thread        LANES blocks, as encode.metal says
//     d             the largest |w| / 127; codes know it unrounded

#include "encode_plain.metal"

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float*, uint, ulong count, device uchar* wire, ulong at
) {
    Floats x[Format::weights];
    load_blocks<Format>(x, rows, at * LANES, count);
    const Floats scale = largest_magnitude<Format::weights>(x) / 127.0f;
    const Floats per_step = inverse_of(scale);
    const Mask lost = overflows(scale);
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(scale));
    UNROLL
    for (int i = 0; i < Format::weights; ++i) {
        const Words code = round_half_away(x[i] * per_step) & 255u;
        made.put(2 + i, lost ? Words(0u) : code);
    }
    made.store(wire, at * LANES, count);
}
