// The scales and biases of least squared error for MLX's affine formats, and the codes for them:
// mlxquant/quantize/search_affine.py, operation by operation, so that every bit is the same.
//
//     thread        LANES groups, one a lane; `at` counts them
//     threadgroup   any; there are no barriers and nothing is shared
//     bits          2 to 6, or 8
//     size          of a group: 32, 64 or 128
//     weighted      whether there is importance
//     type          of scales and biases, and of the weights: 0 float, 1 half, 2 bfloat
//
// Nothing here may depend on the fusing of a multiplication and an addition, and a division is
// rounded correctly.

#include "blocks.metal"
#include "lanes.metal"

enum StoredType { STORED_F32 = 0, STORED_F16 = 1, STORED_BF16 = 2 };

// The nearest number of the type.
inline Floats stored_as(Floats values, int type) {
    if (type == STORED_F32) {
        return values;
    }
    return type == STORED_F16 ? through_half(values) : through_bfloat(values);
}

inline float largest_of(int type) {
    const float of_bfloat = 3.3895313892515355e38f;
    return type == STORED_F32 ? 3.4028234663852886e38f : type == STORED_F16 ? 65504.0f : of_bfloat;
}

// A share of a number that takes it to the next one of its type, when added and rounded.
inline float step_of(int type) {
    return 0.7f * (type == STORED_F32 ? 0x1p-23f : type == STORED_F16 ? 0x1p-10f : 0x1p-7f);
}

// A scale, a bias, and what the line takes off the error of the best constant.
struct Line {
    Floats scale, bias, gain;

    void take(Line other) thread {
        const Mask better = other.gain > gain;
        scale = better ? other.scale : scale;
        bias = better ? other.bias : bias;
        gain = better ? other.gain : gain;
    }
};

// Steps given up at the lower and the upper end of a group's range.
constant float TRIMS[12][2] = {
    {-0.3f, 0.1f}, {-0.3f, 0.5f}, {0.1f, -0.3f}, {0.1f, 0.1f}, {0.1f, 0.5f}, {0.1f, 0.9f},
    {0.5f, -0.3f}, {0.5f, 0.1f}, {0.5f, 0.5f}, {0.5f, 0.9f}, {0.9f, 0.1f}, {0.9f, 0.5f},
};

// Of LANES groups: the weights in units of their largest, and what is derived from them.
template <int size_, bool weighted_>
struct Group {
    static constant constexpr int size = size_;
    static constant constexpr bool weighted = weighted_;

    Floats x[size], centred[size], steps[size];
    Floats v[weighted ? size : 1];

    Floats counted(Floats value, int i) const thread {
        return weighted ? value * v[weighted ? i : 0] : value;
    }
};

// v, or v·x
template <typename G>
struct Weights {
    using Value = Floats;
    const thread G& group;

    Floats at(int i) const thread { return group.v[i]; }
};

template <typename G>
struct Weighed {
    using Value = Floats;
    const thread G& group;

    Floats at(int i) const thread { return group.counted(group.x[i], i); }
};

// A power of two above `value`, the least: as int.bit_length has it.
constexpr int power_above(int value) {
    int power = 1;
    while (power <= value) {
        power *= 2;
    }
    return power;
}

// The codes q of `values`, and of them Σ q·wanted, Σ v·q and Σ v·q². Where float32 holds it exactly
// the last two come in one sum of whole numbers: 2^e·q + q², the second sum below 2^e.
template <typename G, int bits>
struct Moments {
    static constant constexpr int top = (1 << bits) - 1;
    static constant constexpr int largest = G::size * top * top;
    static constant constexpr int high = power_above(largest);
    static constant constexpr bool joint =
        !G::weighted && ulong(G::size) * top * high + largest < (1 << 24);
    using Value = Sums<joint ? 2 : 3>;

    const thread G& group;
    const thread Floats* values;
    Floats offset, factor;

    Value at(int i) const thread {
        const Floats q = clipped(whole((values[i] - offset) * factor), float(top));
        Value terms;
        terms.of[0] = q * group.centred[i];
        if (joint) {
            terms.of[1] = (q + float(high)) * q;
        } else {
            terms.of[1] = group.counted(q, i);
            terms.of[joint ? 0 : 2] = group.counted(q * q, i);
        }
        return terms;
    }
};

// v·(x - (s·q + b))² for the nearest codes.
template <typename G, int bits>
struct Errors {
    using Value = Floats;
    const thread G& group;
    Floats scale, bias, inverse;

    Floats at(int i) const thread {
        const Floats q = clipped(whole((group.x[i] - bias) * inverse), float((1 << bits) - 1));
        const Floats off = group.x[i] - (q * scale + bias);
        return group.counted(off * off, i);
    }
};

template <int bits, int size, bool weighted>
struct AffineSearch {
    using G = Group<size, weighted>;
    static constant constexpr int words = size * bits / 32;
    static constant constexpr int top = (1 << bits) - 1;

    G group;
    int type;
    Floats up, down, total, middle, start, end, step;
    // plain rounding's as they are stored; then the best found, in units of the lanes
    Floats plain_scale, plain_bias;
    Floats scale, bias, error;
    Mask replaced, finite;

    // Groups `first` to `first` + LANES - 1 of `count`, those beyond as the last one.
    void load(
        const device float* rows, const device float* importance, uint columns, ulong first,
        ulong count
    ) thread {
        const device float* from[LANES];
        const device float* shares[LANES];
        for (int l = 0; l < LANES; ++l) {
            const ulong number = first + l < count ? first + l : count - 1;
            from[l] = rows + number * size;
            shares[l] = importance + (weighted ? number % columns * size : 0);
        }
        load_lanes<size>(group.x, from);
        if (weighted) {
            load_lanes<weighted ? size : 16>(group.v, shares);
        }
    }

    // What mx.quantize takes, and the lanes' units.
    void prepare() thread {
        Floats high = group.x[0], low = group.x[0], nothing = group.x[0] * 0.0f;
        for (int i = 1; i < size; ++i) {
            high = larger(high, group.x[i]);
            low = smaller(low, group.x[i]);
            nothing = nothing + group.x[i] * 0.0f;
        }
        // infinity by 0 is NaN
        finite = nothing == nothing;
        plain(high, low);
        const Floats largest = larger(high, Floats(0.0f) - low);
        // the biased exponent of 2^e, e from -100 to 126, where largest is m · 2^e, 1/2 <= m < 1
        const Words biased = (bits_of(largest) >> 23) + 1u;
        Words power = biased < 27u ? Words(27u) : biased;
        power = power > 253u ? Words(253u) : power;
        power = largest == 0.0f ? Words(127u) : power;
        up = of_bits(power << 23);
        down = of_bits((254u - power) << 23);
        for (int i = 0; i < size; ++i) {
            group.x[i] = group.x[i] * down;
        }
        scale = plain_scale * down;
        bias = plain_bias * down;
        replaced = Mask(0);
        total = Floats(float(size));
        if (weighted) {
            total = sum_of<size>(Weights<G>{group});
        }
        middle = sum_of<size>(Weighed<G>{group}) / total;
        spread();
    }

    void plain(Floats high, Floats low) thread {
        Floats step = larger((high - low) / float(top), Floats(1e-7f));
        const Mask low_is_edge = magnitude(low) > magnitude(high);
        step = low_is_edge ? step : -step;
        const Floats edge = low_is_edge ? low : high;
        const Floats zero_at = whole(edge / step);
        const Mask shifted = zero_at != 0.0f;
        plain_scale = stored_as(shifted ? edge / zero_at : step, type);
        plain_bias = stored_as(shifted ? edge : Floats(0.0f), type);
    }

    // The range as far as weights count, in steps, and the weights about their mean.
    void spread() thread {
        start = end = reached(0);
        for (int i = 1; i < size; ++i) {
            const Floats value = reached(i);
            start = smaller(start, value);
            end = larger(end, value);
        }
        step = (end - start) / float(top);
        const Floats per_step = step > 0.0f ? 1.0f / step : Floats(0.0f);
        for (int i = 0; i < size; ++i) {
            group.steps[i] = (group.x[i] - start) * per_step;
            group.centred[i] = group.counted(group.x[i] - middle, i);
        }
    }

    Floats reached(int i) const thread {
        if (!weighted) {
            return group.x[i];
        }
        return group.v[weighted ? i : 0] > 0.0f ? group.x[i] : middle;
    }

    void run() thread {
        error = error_of(scale, bias);
        // a range that overflows is stored as infinity: anything finite is better
        error = error != error ? Floats(INFINITY) : error;
        Line line = {step, start, Floats(0.0f)};
        for (int t = 0; t < 12; ++t) {
            const float share = float(top) - TRIMS[t][0] - TRIMS[t][1];
            line.take(line_of(group.steps, Floats(TRIMS[t][0]), Floats(float(top) / share)));
        }
        line.take(line_of(group.x, line.bias, inverse_of(line.scale)));
        attempt(line);
        attempt(line_of(group.x, bias, inverse_of(scale)));
    }

    // Below 2^-100 a scale, in units of the group's largest weight, moves nothing.
    static Floats inverse_of(Floats scale) {
        return magnitude(scale) > 0x1p-100f ? 1.0f / scale : Floats(0.0f);
    }

    // The line of least error through codes; where it is none, its gain is not > 0.
    Line line_of(const thread Floats* values, Floats offset, Floats factor) const thread {
        using M = Moments<G, bits>;
        const typename M::Value sums = sum_of<size>(M{group, values, offset, factor});
        const Floats product = sums.of[0];
        Floats first = sums.of[1], square = sums.of[M::joint ? 1 : 2];
        if (M::joint) {
            first = floor_of(sums.of[1] * (1.0f / float(M::high)));
            square = sums.of[1] - first * float(M::high);
        }
        const Floats mean = first / total;
        const Floats slope = product / (square - mean * mean * total);
        return {slope, middle - slope * mean, slope * product};
    }

    Floats error_of(Floats scale, Floats bias) const thread {
        return sum_of<size>(Errors<G, bits>{group, scale, bias, inverse_of(scale)});
    }

    // Both neighbours of a line's scale in the file's type, each with its best bias.
    void attempt(Line line) thread {
        // the line's mean is the weights' own: that is what a bias has to restore
        const Floats mean = (middle - line.bias) / line.scale;
        const Floats near = as_stored(line.scale);
        const Floats away = step_of(type) * magnitude(near);
        Floats tried = near;
        for (int t = 0; t < 2; ++t) {
            const Floats best = as_stored(middle - tried * mean);
            const Floats off = error_of(tried, best);
            // neither s·q nor the weight may overflow where they are multiplied out
            const Floats reach = magnitude(tried * float(top)) * up + magnitude(best) * up;
            const Mask better = (off < error * (1.0f - 0x1p-16f)) & (reach <= largest_of(type));
            scale = better ? tried : scale;
            bias = better ? best : bias;
            error = better ? off : error;
            replaced = replaced | better;
            tried = as_stored(near > line.scale ? near - away : near + away);
        }
    }

    // Rounded to the file's type, finite, in the lanes' units.
    Floats as_stored(Floats values) const thread {
        const float most = largest_of(type);
        Floats inside = values * up;
        inside = inside < -most ? Floats(-most) : inside;
        inside = inside > most ? Floats(most) : inside;
        return stored_as(inside, type) * down;
    }

    // Codes as mlxquant/formats/packing.py packs them; the bias of what is not finite is NaN.
    void store(
        device uint* codes, device float* scales, device float* biases, ulong first, ulong count
    ) const thread {
        const Floats inverse = inverse_of(scale);
        Words packed[words];
        UNROLL
        for (int w = 0; w < words; ++w) {
            packed[w] = Words(0u);
        }
        UNROLL
        for (int i = 0; i < size; ++i) {
            const Floats q = clipped(whole((group.x[i] - bias) * inverse), float(top));
            const Words code = to_words(q == q ? q : Floats(0.0f));
            packed[i * bits / 32] = packed[i * bits / 32] | code << uint(i * bits % 32);
            if (i * bits % 32 + bits > 32) {
                packed[i * bits / 32 + 1] = code >> uint(32 - i * bits % 32);
            }
        }
        const Floats found = replaced ? scale * up : plain_scale;
        const Floats offset = replaced ? bias * up : plain_bias;
        const Floats known = finite ? offset : Floats(NAN);
        const int lanes = int(first + LANES < count ? LANES : count - first);
        device uchar* to = reinterpret_cast<device uchar*>(codes + first * words);
        store_lanes<4 * words, 4>(to, packed, lanes);
        for (int l = 0; l < lanes; ++l) {
            scales[first + l] = lane(found, l);
            biases[first + l] = lane(known, l);
        }
    }
};

// grid (count / LANES, rounded up): float [count, size], importance float [columns, size] by turns →
// codes uint [count, size · bits / 32], scales and biases float [count], exact in the type.
template <int bits, int size, bool weighted>
inline void affine_search(
    const device float* rows, const device float* importance, uint columns, int type, ulong count,
    device uint* codes, device float* scales, device float* biases, ulong at
) {
    const ulong first = at * LANES;
    AffineSearch<bits, size, weighted> search;
    search.type = type;
    search.load(rows, importance, columns, first, count);
    search.prepare();
    search.run();
    search.store(codes, scales, biases, first, count);
}
