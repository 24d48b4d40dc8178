// Encodes Q4_0 and Q5_0: mlxquant/formats/legacy.py without importance, scale_search.py with it.
//
//     thread        LANES blocks, as encode.metal says

#include "scale_search.metal"
#include "tables/Q4_0_EDGES.metal"
#include "tables/Q5_0_EDGES.metal"

// Whole numbers from -half to half - 1, and where the search puts the extreme weight.
template <int half_>
struct WholeLevels {
    static constant constexpr int edges = 34;

    static float edge(int i) { return half_ == 8 ? Q4_0_EDGES[i] : Q5_0_EDGES[i]; }

    Floats nearest(Floats steps) const thread {
        const Floats rounded = whole(steps);
        const Floats above = rounded < float(-half_) ? Floats(float(-half_)) : rounded;
        return above > float(half_ - 1) ? Floats(float(half_ - 1)) : above;
    }
};

// The error of codes as `round_symmetric` has them, at a scale.
template <typename S, int half_>
struct PlainErrors {
    using Value = Floats;
    const thread S& block;
    const thread Symmetric<half_>& plain;
    Floats scale;

    Floats at(int i) const thread {
        const Floats off = block.x[i] - (plain.code(block.x[i]) - float(half_)) * scale;
        return block.counted(off * off, i);
    }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    constexpr bool five = Format::bytes == 22;
    constexpr int half_ = five ? 16 : 8;
    const ulong first = at * LANES;
    Searched<32, weighted> block;
    load_blocks<Format>(block.x, rows, first, count);
    Symmetric<half_> plain;
    plain.fit(block.x);
    Floats scale = plain.scale, per_step = Floats(0.0f);
    Mask searched = Mask(0);
    const WholeLevels<half_> levels = {};
    if (weighted) {
        load_importance<Format>(block.v, importance, columns, first, count);
        block.weigh(block.largest());
        const Refined found = refined(block, levels, best_scale(block, levels));
        const Floats rounded = through_half(plain.scale);
        using E = PlainErrors<Searched<32, weighted>, half_>;
        const Floats error = sum_of<32>(E{block, plain, rounded});
        // an infinite scale has no error that is a number
        searched = !(error < found.error);
        scale = searched ? found.scale : rounded;
        per_step = inverse_of(found.scale);
    }
    Words codes[32];
    UNROLL
    for (int i = 0; i < 32; ++i) {
        Floats code = plain.code(block.x[i]);
        if (weighted) {
            code = searched ? levels.nearest(block.x[i] * per_step) + float(half_) : code;
        }
        codes[i] = to_words(code);
    }
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(scale));
    if (five) {
        put_fives(made, 2, codes);
    } else {
        put_nibbles(made, 2, codes);
    }
    made.store(wire, first, count);
}
