// Encodes Q6_K: codes and scales as encode_k_scales.metal finds them, to the bytes that
// q6_k.metal draws.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_k_scales.metal"
#include "encode_k_bytes.metal"
#include "tables/Q6_K_LEVELS.metal"

struct Q6_K_Limits {
    static constant constexpr int size = 16, half_codes = 32, steps = 128;
    static constant constexpr int levels = sizeof(Q6_K_LEVELS) / 4;

    static float level(int i) { return Q6_K_LEVELS[i]; }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    ScaleSearch<Q6_K_Limits, weighted> found;
    found.blocks.template load<Format>(rows, importance, columns, at * LANES, count);
    found.run();
    const thread Floats* codes = found.codes;
    Wire<Format> made;
    made.clear();
    put_planes<4, 64, 128>(made, 0, BitsOf{codes, 32.0f, 0, 15u});
    put_planes<2, 32, 64>(made, 128, BitsOf{codes, 32.0f, 4, 3u});
    UNROLL
    for (int j = 0; j < 16; ++j) {
        const Floats scale = found.state.scales[j];
        made.put(192 + j, to_words(scale < 0.0f ? scale + 256.0f : scale));
    }
    made.put(208, half_bits(found.state.d));
    made.store(wire, at * LANES, count);
}
