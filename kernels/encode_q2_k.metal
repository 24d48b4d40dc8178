// Encodes Q2_K: codes, scales and mins as encode_k_mins.metal finds them, to the bytes that
// q2_k.metal draws.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_k_mins.metal"
#include "encode_k_bytes.metal"
#include "tables/Q2_K_RANGES.metal"

struct Q2_K_Limits {
    static constant constexpr int size = 16, top = 3, steps = 15;
    static constant constexpr int ranges = sizeof(Q2_K_RANGES) / 8;

    static float range(int i) { return Q2_K_RANGES[i]; }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    MinSearch<Q2_K_Limits, weighted> found;
    found.blocks.template load<Format>(rows, importance, columns, at * LANES, count);
    found.run();
    const thread Floats* codes = found.codes;
    Wire<Format> made;
    made.clear();
    UNROLL
    for (int j = 0; j < 16; ++j) {
        const Words scale = to_words(found.state.scales[j]), low = to_words(found.state.mins[j]);
        made.put(j, scale | low << 4u);
    }
    put_planes<2, 32, 64>(made, 16, BitsOf{codes, 0.0f, 0, 3u});
    made.put(80, half_bits(found.state.d));
    made.put(82, half_bits(found.state.dmin));
    made.store(wire, at * LANES, count);
}
