// Encodes Q5_K: codes, scales and mins as encode_k_mins.metal finds them, to the bytes that
// q5_k.metal draws.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_k_mins.metal"
#include "encode_k_bytes.metal"
#include "tables/Q5_K_RANGES.metal"

struct Q5_K_Limits {
    static constant constexpr int size = 32, top = 31, steps = 63;
    static constant constexpr int ranges = sizeof(Q5_K_RANGES) / 8;

    static float range(int i) { return Q5_K_RANGES[i]; }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    MinSearch<Q5_K_Limits, weighted> found;
    found.blocks.template load<Format>(rows, importance, columns, at * LANES, count);
    found.run();
    const thread Floats* codes = found.codes;
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(found.state.d));
    made.put(2, half_bits(found.state.dmin));
    put_k_scales(made, 4, found.state.scales, found.state.mins);
    put_planes<1, 32, 32>(made, 16, BitsOf{codes, 0.0f, 4, 1u});
    put_planes<4, 32, 128>(made, 48, BitsOf{codes, 0.0f, 0, 15u});
    made.store(wire, at * LANES, count);
}
