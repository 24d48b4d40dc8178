// Encodes Q3_K: codes and scales as encode_k_scales.metal finds them, to the bytes that
// q3_k.metal draws.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_k_scales.metal"
#include "encode_k_bytes.metal"
#include "tables/Q3_K_LEVELS.metal"

struct Q3_K_Limits {
    static constant constexpr int size = 16, half_codes = 4, steps = 32;
    static constant constexpr int levels = sizeof(Q3_K_LEVELS) / 4;

    static float level(int i) { return Q3_K_LEVELS[i]; }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    ScaleSearch<Q3_K_Limits, weighted> found;
    found.blocks.template load<Format>(rows, importance, columns, at * LANES, count);
    found.run();
    const thread Floats* codes = found.codes;
    Wire<Format> made;
    made.clear();
    put_planes<1, 32, 32>(made, 0, BitsOf{codes, 4.0f, 2, 1u});
    put_planes<2, 32, 64>(made, 32, BitsOf{codes, 4.0f, 0, 3u});
    put_planes<4, 8, 8>(made, 96, BitsOf{found.state.scales, 32.0f, 0, 15u});
    put_planes<2, 4, 4>(made, 104, BitsOf{found.state.scales, 32.0f, 4, 3u});
    made.put(108, half_bits(found.state.d));
    made.store(wire, at * LANES, count);
}
