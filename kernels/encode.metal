// What every encoder shares. An encoder of a format is a function
//
//     encode<Format, weighted>(rows, importance, columns, count, wire, at)
//
//     thread        LANES blocks, one a lane; `at` counts them
//     threadgroup   any; there are no barriers and nothing is shared
//     rows          float [count, weights], finite
//     importance    float [columns, weights] by turns, where `weighted`
//     wire          uchar [count, bytes]
//
// that does what `encode_blocks` of mlxquant/formats does, operation by operation, so that every bit
// is the same. Nothing may depend on the fusing of a multiplication and an addition, and a division
// is rounded correctly.

#include "blocks.metal"
#include "lanes.metal"

// Of blocks `first` to `first` + LANES - 1 of `count`, those beyond as the last one: `size` weights
// from weight `begin` on.
template <typename Format, int size = Format::weights>
inline void load_blocks(
    thread Floats* weights, const device float* rows, ulong first, ulong count, int begin = 0
) {
    const device float* from[LANES];
    for (int l = 0; l < LANES; ++l) {
        const ulong block = first + l < count ? first + l : count - 1;
        from[l] = rows + block * Format::weights + begin;
    }
    load_lanes<size>(weights, from);
}

// Their importance as it is given.
template <typename Format, int size = Format::weights>
inline void load_importance(
    thread Floats* shares, const device float* importance, uint columns, ulong first, ulong count,
    int begin = 0
) {
    const device float* from[LANES];
    for (int l = 0; l < LANES; ++l) {
        const ulong block = first + l < count ? first + l : count - 1;
        from[l] = importance + block % columns * Format::weights + begin;
    }
    load_lanes<size>(shares, from);
}

// The bytes of a block in each lane, in little-endian words. A block's size is even.
template <typename Format>
struct Wire {
    Words words[(Format::bytes + 3) / 4];

    void clear() thread {
        UNROLL
        for (int w = 0; w < (Format::bytes + 3) / 4; ++w) {
            words[w] = Words(0u);
        }
    }

    // Adds bits, the lowest of them the lowest of byte `at`; none beyond its word.
    void put(int at, Words bits) thread {
        words[at / 4] = words[at / 4] | bits << uint(8 * (at % 4));
    }

    // Writes what belongs to `count` blocks.
    void store(device uchar* wire, ulong first, ulong count) const thread {
        store_lanes<Format::bytes, Format::align>(
            wire + first * Format::bytes, words, int(first + LANES < count ? LANES : count - first)
        );
    }
};
