// What the encoders of K-quants share: mlxquant/formats/k_search.py and stretch.py, operation by
// operation, so that every bit is the same.
//
//     size          weights of a sub-block: 16 or 32
//     weighted      whether there is importance
//
// Steps are those of k_search.py. Sums run over a sub-block's weights in order, then over the
// sub-blocks. A float16 is held as the float that it is.

#include "encode.metal"

// 1 / values, and 0 where that is no number to multiply by.
inline Floats inverse(Floats values) {
    return magnitude(values) > 1e-37f ? 1.0f / values : Floats(0.0f);
}

// Whole numbers of low … high.
inline Floats limited(Floats values, float low, float high) {
    const Floats above = values < low ? Floats(low) : values;
    return above > high ? Floats(high) : above;
}

// The float16 next above h (side = 1) or below it (side = -1), kept finite.
inline Floats next_half(Floats h, float side) {
    // seven tenths of a step are rounded to one, on either side of a power of two
    const Floats step = larger(0.7f * 0x1p-10f * magnitude(h), Floats(0x1p-24f));
    return limited(through_half(h + side * step), -65504.0f, 65504.0f) + 0.0f;
}

// 0, -1, 1, -2, 2 …
inline int by_turns(int t) {
    return t % 2 == 0 ? t / 2 : -(t / 2) - 1;
}

// The power of two at or below a magnitude, from 2^lowest to 2^126, as a biased exponent.
inline Words power_below(Floats most, int lowest) {
    const Words biased = bits_of(most) >> 23;
    const Words above = biased < uint(127 + lowest) ? Words(uint(127 + lowest)) : biased;
    return above > 253u ? Words(253u) : above;
}

// Of LANES super-blocks: the weights in units of `unit`, a power of two, and their importance, of
// which the mean is 1.
template <int size_, bool weighted_>
struct SuperBlocks {
    static constant constexpr int size = size_, subs = 256 / size_;
    static constant constexpr bool weighted = weighted_;

    Floats x[256];
    Floats w[weighted ? 256 : 1];
    // over each sub-block: Σ w, and 1 / Σ w
    Floats total[subs], per_total[subs];
    Floats unit, per_unit;

    Floats weigh(Floats value, int i) const thread {
        return weighted ? value * w[weighted ? i : 0] : value;
    }

    // The nearest float16 to a value in units, kept finite; and back.
    Floats to_half(Floats value) const thread {
        return limited(through_half(value * unit), -65504.0f, 65504.0f);
    }

    Floats real(Floats h) const thread { return h * per_unit; }

    template <typename Format>
    void load(
        const device float* rows, const device float* importance, uint columns, ulong first,
        ulong count
    ) thread {
        load_blocks<Format>(x, rows, first, count);
        if (weighted) {
            load_importance<Format>(w, importance, columns, first, count);
        }
        prepare();
    }

    void prepare() thread {
        Floats most = Floats(0.0f);
        for (int i = 0; i < 256; ++i) {
            most = larger(magnitude(x[i]), most);
        }
        const Words power = power_below(most, -40);
        unit = of_bits(power << 23);
        per_unit = of_bits((254u - power) << 23);
        for (int i = 0; i < 256; ++i) {
            // a zero of either sign becomes 0
            x[i] = x[i] * per_unit + 0.0f;
        }
        if (weighted) {
            even_out();
        }
        for (int j = 0; j < subs; ++j) {
            total[j] = weighted ? sum_of_importance(j) : Floats(float(size));
            per_total[j] = 1.0f / total[j];
        }
    }

    Floats sum_of_importance(int j) const thread {
        Floats sum = Floats(0.0f);
        for (int i = 0; i < size; ++i) {
            sum = sum + w[weighted ? j * size + i : 0];
        }
        return sum;
    }

    // Bring the mean of the importance to 1.
    void even_out() thread {
        Floats most = Floats(0.0f);
        for (int i = 0; i < 256; ++i) {
            most = larger(w[weighted ? i : 0], most);
        }
        const Floats down = of_bits((254u - power_below(most, -126)) << 23);
        Floats sum = Floats(0.0f);
        for (int i = 0; i < 256; ++i) {
            w[weighted ? i : 0] = w[weighted ? i : 0] * down;
        }
        for (int j = 0; j < subs; ++j) {
            sum = sum + sum_of_importance(j);
        }
        const Mask given = sum > 0.0f;
        const Floats factor = given ? 256.0f / sum : Floats(0.0f);
        for (int i = 0; i < 256; ++i) {
            const Floats share = larger(w[weighted ? i : 0] * factor, Floats(1e-6f));
            w[weighted ? i : 0] = given ? share : Floats(1.0f);
        }
    }

    // Whether all weights are the same.
    Mask constant_weights() const thread {
        Mask same = x[1] == x[0];
        for (int i = 2; i < 256; ++i) {
            same = same & (x[i] == x[0]);
        }
        return same;
    }

    // Step 2: the float16 d that brings d · (lowest … highest) nearest to `values`, of which a
    // squared unit costs `weight`. The largest comes to lie between these parts of `highest`.
    template <int lowest, int highest>
    Floats shared_scale(
        const thread Floats* values, const thread Floats* weight, float from, float to
    ) const thread {
        const float apart = highest > 31 ? 1.0f : highest > 15 ? 0.5f : 0.25f;
        const float begin = float(int(to * float(highest))), end = from * float(highest);
        Floats low = values[0], high = values[0];
        for (int j = 1; j < subs; ++j) {
            low = smaller(low, values[j]);
            high = larger(high, values[j]);
        }
        const Floats edge = -low > high ? low : high;
        Floats best = Floats(0.0f), least = Floats(INFINITY);
        for (float side = lowest < 0 ? -1.0f : 1.0f; side <= 1.0f; side += 2.0f) {
            for (float t = begin; t > end; t -= apart) {
                const Floats wanted = edge * (1.0f / (side * t));
                // a step too small for float16 is the smallest there is
                const Floats smallest = wanted < 0.0f ? Floats(-0x1p-24f) : Floats(0x1p-24f);
                const Floats rounded = to_half(wanted);
                const Floats instead = wanted == 0.0f ? Floats(0.0f) : smallest;
                const Floats h = rounded == 0.0f ? instead : rounded;
                const Floats d = real(h), per_d = inverse(d);
                Floats cost = Floats(0.0f);
                for (int j = 0; j < subs; ++j) {
                    const Floats whole_part =
                        limited(whole(values[j] * per_d), float(lowest), float(highest));
                    const Floats error = whole_part * d - values[j];
                    cost = cost + error * error * weight[j];
                }
                const Mask won = cost < least;
                least = won ? cost : least;
                best = won ? h : best;
            }
        }
        return best;
    }
};

// Sub-block j's weights become scale[j] · q - low[j].
template <typename Blocks>
struct Restored {
    const thread Blocks& blocks;
    const thread Floats* codes;
    Floats scale[Blocks::subs], low[Blocks::subs];

    Floats at(int j, int i) const thread { return codes[j * Blocks::size + i] * scale[j] - low[j]; }

    // The best factor for these weights.
    Floats factor(Floats length) const thread {
        Floats product = Floats(0.0f), square = Floats(0.0f);
        for (int j = 0; j < Blocks::subs; ++j) {
            Floats own_product = Floats(0.0f), own_square = Floats(0.0f);
            for (int i = 0; i < Blocks::size; ++i) {
                const Floats value = at(j, i);
                const Floats weighed = blocks.weigh(value, j * Blocks::size + i);
                own_product = own_product + weighed * blocks.x[j * Blocks::size + i];
                own_square = own_square + weighed * value;
            }
            product = product + own_product;
            square = square + own_square;
        }
        const Floats safe = length > 0.0f ? length : Floats(1.0f);
        const Floats below = square + product * product / safe;
        const Mask fits = (product > 0.0f) & (below > 0.0f);
        return fits ? (product + product) / below : Floats(1.0f);
    }

    // Their loss.
    Floats loss(Floats length) const thread {
        Floats error = Floats(0.0f), along = Floats(0.0f);
        for (int j = 0; j < Blocks::subs; ++j) {
            Floats own_error = Floats(0.0f), own_along = Floats(0.0f);
            for (int i = 0; i < Blocks::size; ++i) {
                const Floats off = at(j, i) - blocks.x[j * Blocks::size + i];
                const Floats weighed = blocks.weigh(off, j * Blocks::size + i);
                own_error = own_error + weighed * off;
                own_along = own_along + weighed * blocks.x[j * Blocks::size + i];
            }
            error = error + own_error;
            along = along + own_along;
        }
        return error + along * along / (length > 0.0f ? length : Floats(1.0f));
    }
};

// Step 6: the factor that may lower the loss, and 1 where there is none.
template <typename Blocks>
inline Floats stretch_of(const thread Restored<Blocks>& before, thread Floats& length) {
    const thread Blocks& blocks = before.blocks;
    Floats most = Floats(0.0f);
    length = Floats(0.0f);
    for (int j = 0; j < Blocks::subs; ++j) {
        Floats own = Floats(0.0f);
        for (int i = 0; i < Blocks::size; ++i) {
            const Floats x = blocks.x[j * Blocks::size + i];
            const Floats share = blocks.weigh(x, j * Blocks::size + i) * x;
            most = larger(share, most);
            own = own + share;
        }
        length = length + own;
    }
    const Floats by = before.factor(length);
    // a weight that is most of its block has no direction beside its own
    const Mask kept = (most > length / 2.0f) | (by < 1.0f + 0x1p-11f);
    return kept ? Floats(1.0f) : by;
}
