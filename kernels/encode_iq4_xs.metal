// Encodes IQ4_XS: mlxquant/formats/iq4_xs.py.
//
//     thread        LANES blocks, as encode.metal says

#include "encode_levels.metal"
#include "tables/IQ4_XS_DIVISORS.metal"

// Eight sub-blocks, and one number of each.
struct Eight {
    Floats of[8];

    Floats sum() const thread {
        Eight copy = *this;
        return Fold<8, Floats>::sum(copy.of);
    }
};

template <bool weighted>
struct SuperBlock {
    using Sub = Searched<32, weighted>;
    Sub sub[8];
    UnevenLevels levels;

    // Importance as it is given → the largest of each block 1, and what a search goes by.
    void weigh() thread {
        Floats largest = sub[0].v[0];
        for (int i = 1; i < 256; ++i) {
            largest = larger(sub[i / 32].v[weighted ? i % 32 : 0], largest);
        }
        for (int s = 0; s < 8; ++s) {
            sub[s].weigh(largest);
        }
    }

    // The error of each sub-block at d by its steps.
    Eight error_of(Floats d, const thread Eight& steps) const thread {
        Eight errors;
        for (int s = 0; s < 8; ++s) {
            const Floats scale = d * steps.of[s];
            errors.of[s] = sum_of<32>(Errors{sub[s], levels, scale, inverse_of(scale)});
        }
        return errors;
    }

    struct Errors {
        using Value = Floats;
        const thread Sub& block;
        const thread UnevenLevels& levels;
        Floats scale, per_step;

        Floats at(int i) const thread {
            const Floats off = block.x[i] - levels.nearest(block.x[i] * per_step) * scale;
            return block.counted(off * off, i);
        }
    };

    // Levels by their sub-block's steps, whose multiple of d is weighed against the weights.
    struct StepMoments {
        using Value = Sums<2>;
        const thread Sub& block;
        const thread UnevenLevels& levels;
        Floats steps, per_step;

        Value at(int i) const thread {
            const Floats q = levels.nearest(block.x[i] * per_step) * steps;
            Value terms;
            terms.of[0] = block.goal(i) * q;
            terms.of[1] = block.counted(q, i) * q;
            return terms;
        }
    };

    static Eight near(Floats d, const thread Eight& wanted) {
        const Floats per_step = inverse_of(d);
        Eight steps;
        for (int s = 0; s < 8; ++s) {
            steps.of[s] = inside(whole(wanted.of[s] * per_step));
        }
        return steps;
    }

    static Floats inside(Floats steps) {
        const Floats above = steps < -32.0f ? Floats(-32.0f) : steps;
        return above > 31.0f ? Floats(31.0f) : above;
    }

    static void take(thread Eight& kept, Mask better, const thread Eight& other) {
        for (int s = 0; s < 8; ++s) {
            kept.of[s] = better ? other.of[s] : kept.of[s];
        }
    }

    // One float16 scale, and a whole number of steps of it for each sub-block.
    Floats search(thread Eight& steps) const thread {
        Eight found;
        Floats largest = Floats(0.0f);
        for (int s = 0; s < 8; ++s) {
            found.of[s] = best_scale(sub[s], levels);
            largest = magnitude(found.of[s]) > magnitude(largest) ? found.of[s] : largest;
        }
        Floats d = clipped_half(largest / IQ4_XS_DIVISORS[0]);
        steps = near(d, found);
        Eight least = error_of(d, steps);
        for (int t = 1; t < 8; ++t) {
            const Floats tried = clipped_half(largest / IQ4_XS_DIVISORS[t]);
            const Eight those = near(tried, found);
            const Eight errors = error_of(tried, those);
            const Mask better = errors.sum() < least.sum();
            d = better ? tried : d;
            take(steps, better, those);
            take(least, better, errors);
        }
        for (int change = -1; change < 2; change += 2) {
            Eight those;
            for (int s = 0; s < 8; ++s) {
                those.of[s] = inside(steps.of[s] + float(change));
            }
            const Eight errors = error_of(d, those);
            for (int s = 0; s < 8; ++s) {
                const Mask better = errors.of[s] < least.of[s];
                steps.of[s] = better ? those.of[s] : steps.of[s];
                least.of[s] = better ? errors.of[s] : least.of[s];
            }
        }
        const Floats tried = fitted(d, steps);
        return error_of(tried, steps).sum() < least.sum() ? tried : d;
    }

    // The d that fits best the codes chosen so far.
    Floats fitted(Floats d, const thread Eight& steps) const thread {
        Eight product, square;
        for (int s = 0; s < 8; ++s) {
            const Floats per_step = inverse_of(d * steps.of[s]);
            const Sums<2> sums = sum_of<32>(StepMoments{sub[s], levels, steps.of[s], per_step});
            product.of[s] = sums.of[0];
            square.of[s] = sums.of[1];
        }
        const Floats best = product.sum() / square.sum();
        // infinity by 0 is NaN
        return clipped_half(best * 0.0f == 0.0f ? best : d);
    }
};

template <typename Format, bool weighted>
inline void encode(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong at
) {
    const ulong first = at * LANES;
    SuperBlock<weighted> block;
    for (int s = 0; s < 8; ++s) {
        load_blocks<Format, 32>(block.sub[s].x, rows, first, count, 32 * s);
        if (weighted) {
            load_importance<Format, weighted ? 32 : 16>(
                block.sub[s].v, importance, columns, first, count, 32 * s
            );
        }
    }
    if (weighted) {
        block.weigh();
    }
    Eight steps;
    const Floats d = block.search(steps);
    Wire<Format> made;
    made.clear();
    made.put(0, half_bits(d));
    for (int s = 0; s < 8; ++s) {
        const Words scale = to_words(steps.of[s] + 32.0f);
        made.put(2 + s / 4, (scale >> 4u) << uint(2 * (s % 4)));
        made.put(4 + s / 2, (scale & 15u) << uint(4 * (s % 2)));
        const Floats per_step = inverse_of(d * steps.of[s]);
        Words codes[32];
        UNROLL
        for (int i = 0; i < 32; ++i) {
            codes[i] = block.levels.code(block.sub[s].x[i] * per_step);
        }
        put_nibbles(made, 8 + 16 * s, codes);
    }
    made.store(wire, first, count);
}
