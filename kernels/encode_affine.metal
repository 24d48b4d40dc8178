// Encodes Q4_1 and Q5_1: mlxquant/formats/legacy.py without importance, scale_search.py with it.
//
//     thread        LANES blocks, as encode.metal says

#include "scale_search.metal"
#include "tables/AFFINE_BESIDE.metal"
#include "tables/AFFINE_TRIMS.metal"

// A scale and an offset, and what the line takes off the error of the best constant.
struct Line {
    Floats scale, low, gain;
};

// Of 32 weights about their mean, with importance: the line of least error through codes.
template <int top>
struct LineSearch {
    Searched<32, true> block;
    Floats total, middle, start, step;
    Line best;
    Floats below, above;

    struct Importance {
        using Value = Floats;
        const thread LineSearch& search;

        Floats at(int i) const thread { return search.block.v[i]; }
    };

    struct Weighed {
        using Value = Floats;
        const thread LineSearch& search;

        Floats at(int i) const thread { return search.block.x[i] * search.block.v[i]; }
    };

    // Σ v·x·q, Σ v·q² and Σ v·q of the codes q nearest to (x - offset) · factor, x about its mean;
    // and the error of scale · q + offset.
    struct Terms {
        using Value = Sums<4>;
        const thread LineSearch& search;
        Floats scale, offset, factor;

        Value at(int i) const thread {
            const Floats x = search.block.x[i];
            const Floats q = clipped(whole((x - offset) * factor), float(top));
            const Floats off = x - (q * scale + offset);
            Value terms;
            terms.of[0] = search.block.wanted[i] * q;
            terms.of[1] = search.block.v[i] * q * q;
            terms.of[2] = search.block.v[i] * q;
            terms.of[3] = off * off * search.block.v[i];
            return terms;
        }
    };

    Line line_of(const thread Sums<4>& sums) const thread {
        const Floats mean = sums.of[2] / total;
        const Floats spread = sums.of[1] - mean * mean * total;
        // below, it is what float32 sums may be off
        const Mask clear = spread > 0x1p-18f * sums.of[1];
        const Floats slope = clear ? sums.of[0] / spread : Floats(0.0f);
        return {slope, middle - slope * mean, slope * sums.of[0]};
    }

    void prepare() thread {
        block.weigh(block.largest());
        total = sum_of<32>(Importance{*this});
        middle = sum_of<32>(Weighed{*this}) / total;
        Floats end = block.x[0];
        start = block.x[0];
        for (int i = 0; i < 32; ++i) {
            start = smaller(start, block.x[i]);
            end = larger(end, block.x[i]);
            block.wanted[i] = (block.x[i] - middle) * block.v[i];
        }
        step = (end - start) / float(top);
    }

    // Gives up steps at the lower and the upper end of the range.
    void attempt(Floats lower, Floats upper) thread {
        const Floats factor = inverse_of(step * (float(top) - lower - upper)) * float(top);
        const Floats offset = start + step * lower;
        const Line line = line_of(sum_of<32>(Terms{*this, Floats(0.0f), offset, factor}));
        const Mask better = line.gain > best.gain;
        best.scale = better ? line.scale : best.scale;
        best.low = better ? line.low : best.low;
        best.gain = better ? line.gain : best.gain;
        below = better ? lower : below;
        above = better ? upper : above;
    }

    // From plain rounding's scale and offset, as they are stored.
    void search(Floats scale, Floats low) thread {
        best = {scale, low, Floats(0.0f)};
        below = above = Floats(0.0f);
        for (int t = 0; t < 25; ++t) {
            attempt(Floats(AFFINE_TRIMS[2 * t]), Floats(AFFINE_TRIMS[2 * t + 1]));
        }
        const Floats lower = below, upper = above;
        for (int t = 0; t < 8; ++t) {
            attempt(lower + AFFINE_BESIDE[2 * t], upper + AFFINE_BESIDE[2 * t + 1]);
        }
    }
};

// The error of codes as `round_affine` has them, at a scale and an offset.
template <int top>
struct PlainErrors {
    using Value = Floats;
    const thread LineSearch<top>& search;
    const thread Affine<top>& plain;
    Floats scale, low;

    Floats at(int i) const thread {
        const Floats x = search.block.x[i];
        const Floats off = x - (plain.code(x) * scale + low);
        return off * off * search.block.v[i];
    }
};

template <typename Format>
inline void store_affine(
    Floats scale, Floats low, const thread Words* codes, device uchar* wire, ulong first,
    ulong count
) {
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(scale));
    made.put(2, half_bits(low));
    if (Format::bytes == 24) {
        put_fives(made, 4, codes);
    } else {
        put_nibbles(made, 4, codes);
    }
    made.store(wire, first, count);
}

template <typename Format, bool weighted>
struct Encoder {
    static constant constexpr int top = Format::bytes == 24 ? 31 : 15;

    static void encode(
        const device float* rows, const device float*, uint, ulong count, device uchar* wire,
        ulong first
    ) {
        Floats x[32];
        load_blocks<Format>(x, rows, first, count);
        Affine<top> plain;
        plain.fit(x);
        Words codes[32];
        UNROLL
        for (int i = 0; i < 32; ++i) {
            codes[i] = to_words(plain.code(x[i]));
        }
        store_affine<Format>(plain.scale, plain.low, codes, wire, first, count);
    }
};

template <typename Format>
struct Encoder<Format, true> {
    static constant constexpr int top = Format::bytes == 24 ? 31 : 15;

    static void encode(
        const device float* rows, const device float* importance, uint columns, ulong count,
        device uchar* wire, ulong first
    ) {
        LineSearch<top> found;
        load_blocks<Format>(found.block.x, rows, first, count);
        load_importance<Format>(found.block.v, importance, columns, first, count);
        Affine<top> plain;
        plain.fit(found.block.x);
        Floats scale = through_half(plain.scale), low = through_half(plain.low);
        found.prepare();
        found.search(scale, low);
        Floats least = sum_of<32>(PlainErrors<top>{found, plain, scale, low});
        Mask searched = Mask(0);
        for (int round = 0; round < 4; ++round) {
            const Floats trial = clipped_half(found.best.scale);
            const Floats offset = clipped_half(found.best.low);
            using T = typename LineSearch<top>::Terms;
            const Sums<4> sums = sum_of<32>(T{found, trial, offset, inverse_of(trial)});
            const Floats error = sums.of[3];
            // an infinite scale has no error that is a number
            const Mask unknown = least != least;
            const Mask better = (error < least) | (unknown & (error * 0.0f == 0.0f));
            least = better ? error : least;
            scale = better ? trial : scale;
            low = better ? offset : low;
            searched = searched | better;
            found.best = found.line_of(sums);
        }
        const Floats per_step = inverse_of(scale);
        Words codes[32];
        UNROLL
        for (int i = 0; i < 32; ++i) {
            const Floats x = found.block.x[i];
            const Floats q = clipped(whole((x - low) * per_step), float(top));
            codes[i] = to_words(searched ? q : plain.code(x));
        }
        // of zeros the positive one
        store_affine<Format>(scale + 0.0f, low + 0.0f, codes, wire, first, count);
    }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    Encoder<Format, weighted>::encode(rows, importance, columns, count, wire, at * LANES);
}
