// The encoder of K-quants with mins: mlxquant/formats/k_mins.py, operation by operation.
//
//     w ≈ d · scale · q - dmin · min      Q2_K Q4_K Q5_K
//
//     Limits     size, weights of a sub-block; top and steps, the largest code, and the largest
//                scale and min; range(i), i below 2 · ranges, of k_mins.py's RANGES

#include "encode_k.metal"

// Of a sub-block: real scale and min, error less what is about the mean, the codes' spread and mean.
struct MinFit {
    Floats scale, low, cost, spread, mean;

    void take(MinFit other) thread {
        const Mask won = other.cost < cost;
        scale = won ? other.scale : scale;
        low = won ? other.low : low;
        cost = won ? other.cost : cost;
        spread = won ? other.spread : spread;
        mean = won ? other.mean : mean;
    }
};

// d and dmin, float16; scales and mins, whole numbers; and the error.
template <int subs>
struct MinState {
    Floats d, dmin, scales[subs], mins[subs], cost;

    void take(Mask won, const thread MinState& other) thread {
        d = won ? other.d : d;
        dmin = won ? other.dmin : dmin;
        cost = won ? other.cost : cost;
        for (int j = 0; j < subs; ++j) {
            scales[j] = won ? other.scales[j] : scales[j];
            mins[j] = won ? other.mins[j] : mins[j];
        }
    }
};

template <typename Limits, bool weighted>
struct MinSearch {
    using Blocks = SuperBlocks<Limits::size, weighted>;
    static constant constexpr int size = Limits::size, subs = Blocks::subs;
    static constant constexpr int top = Limits::top, steps = Limits::steps;
    using State = MinState<subs>;

    Blocks blocks;
    // 1, or -1 where mins are added
    Floats sign;
    Floats scales[subs], lows[subs], spreads[subs], means[subs];
    State state;
    Floats codes[256];

    void run() thread {
        choose_sign();
        for (int j = 0; j < subs; ++j) {
            fit_sub_block(j);
        }
        start(state, 0.84f, 1.04f);
        climb(state);
        State other;
        start(other, 0.64f, 0.84f);
        climb(other);
        state.take(other.cost < state.cost, other);
        take_constant();
        for (int j = 0; j < subs; ++j) {
            const Floats low = low_of(state, j), per_scale = inverse(scale_of(state, j));
            for (int i = j * size; i < (j + 1) * size; ++i) {
                codes[i] = code(blocks.x[i] + low, per_scale);
            }
        }
        lengthen();
    }

    Floats scale_of(const thread State& at, int j) const thread {
        return blocks.real(at.d) * at.scales[j];
    }

    Floats low_of(const thread State& at, int j) const thread {
        return blocks.real(at.dmin) * at.mins[j];
    }

    static Floats code(Floats shifted, Floats per_scale) {
        return limited(whole(shifted * per_scale), 0.0f, float(top));
    }

    void range(int j, thread Floats& low, thread Floats& high) const thread {
        low = high = blocks.x[j * size];
        for (int i = j * size + 1; i < (j + 1) * size; ++i) {
            low = smaller(low, blocks.x[i]);
            high = larger(high, blocks.x[i]);
        }
    }

    // Whether added mins spare sub-blocks above zero more than the others lose.
    void choose_sign() thread {
        const float step = float(size) / float(12 * top * top);
        Floats gain = Floats(0.0f), lost = Floats(0.0f);
        for (int j = 0; j < subs; ++j) {
            Floats low, high;
            range(j, low, high);
            const Floats above = larger(low, Floats(0.0f)), below = smaller(low, Floats(0.0f));
            const Floats spared = high - above;
            gain = gain + (high * high - spared * spared) * step;
            lost = lost + below * below;
        }
        sign = gain > lost ? Floats(-1.0f) : Floats(1.0f);
    }

    // Step 1.
    void fit_sub_block(int j) thread {
        const thread Floats* x = blocks.x + j * size;
        Floats sum = Floats(0.0f);
        for (int i = 0; i < size; ++i) {
            sum = sum + blocks.weigh(x[i], j * size + i);
        }
        const Floats mean_x = sum * blocks.per_total[j];
        Floats centred[size];
        for (int i = 0; i < size; ++i) {
            centred[i] = blocks.weigh(x[i] - mean_x, j * size + i);
        }
        Floats low, high;
        range(j, low, high);
        const Floats under = smaller(low, Floats(0.0f)), over = larger(low, Floats(0.0f));
        low = sign > 0.0f ? under : over;
        const Floats span = larger(high, low) - low;
        MinFit best = {span, -low, Floats(INFINITY), span, span};
        for (int t = 0; t < Limits::ranges; ++t) {
            const float step = Limits::range(2 * t), below = Limits::range(2 * t + 1);
            best.take(fitted(j, centred, mean_x, span * step, -low - below * span));
        }
        for (int t = 0; t < 2; ++t) {
            best.take(fitted(j, centred, mean_x, best.scale, best.low));
        }
        scales[j] = best.scale;
        lows[j] = best.low;
        spreads[j] = best.spread;
        means[j] = best.mean;
    }

    // The scale and min that fit the nearest codes best, the min of the sign allowed.
    MinFit fitted(
        int j, const thread Floats* centred, Floats mean_x, Floats scale, Floats low
    ) const thread {
        const Floats per_scale = inverse(scale), total = blocks.total[j];
        Floats first = Floats(0.0f), square = Floats(0.0f), along = Floats(0.0f);
        for (int i = 0; i < size; ++i) {
            const Floats q = code(blocks.x[j * size + i] + low, per_scale);
            const Floats weighed = blocks.weigh(q, j * size + i);
            first = first + weighed;
            square = square + weighed * q;
            along = along + q * centred[i];
        }
        const Floats mean = first * blocks.per_total[j];
        MinFit fit;
        fit.mean = mean;
        fit.spread = larger(square - total * mean * mean, 1e-6f * square);
        fit.scale = larger(along * inverse(fit.spread), Floats(0.0f));
        fit.low = fit.scale * mean - mean_x;
        fit.cost = -fit.scale * along;
        // a min on the wrong side of zero is zero, and the scale fits through the origin
        const Mask wrong = fit.low * sign < 0.0f;
        if (some(wrong)) {
            const Floats through = along + total * mean * mean_x;
            const Floats alone = larger(through * inverse(square), Floats(0.0f));
            fit.scale = wrong ? alone : fit.scale;
            fit.low = wrong ? Floats(0.0f) : fit.low;
            fit.cost = wrong ? total * mean_x * mean_x - alone * through : fit.cost;
        }
        return fit;
    }

    // Step 2.
    void start(thread State& at, float from, float to) const thread {
        at.d = blocks.template shared_scale<0, steps>(scales, spreads, from, to);
        const Floats d = blocks.real(at.d), per_d = inverse(d);
        Floats wanted[subs];
        for (int j = 0; j < subs; ++j) {
            at.scales[j] = smaller(whole(scales[j] * per_d), Floats(float(steps)));
            // the min that fits the rounded scale
            const Floats low = lows[j] + (d * at.scales[j] - scales[j]) * means[j];
            wanted[j] = larger(sign * low, Floats(0.0f));
        }
        const Floats dmin =
            blocks.template shared_scale<0, steps>(wanted, blocks.total, 0.66f, 1.04f);
        const Floats per_dmin = inverse(blocks.real(dmin));
        for (int j = 0; j < subs; ++j) {
            at.mins[j] = smaller(whole(wanted[j] * per_dmin), Floats(float(steps)));
        }
        at.dmin = sign > 0.0f ? dmin : -dmin;
    }

    // Steps 3 and 4.
    void climb(thread State& at) const thread {
        step(at, top == 3 ? 1 : top == 15 ? 2 : 3);
        refit(at);
        step(at, 1);
        refit(at);
        step(at, 1);
    }

    // Step 3. A larger scale comes with the larger min that keeps the middle code in its place.
    void step(thread State& at, int reach) const thread {
        const Floats d = blocks.real(at.d), dmin = blocks.real(at.dmin);
        const Floats along = d * inverse(dmin) * (float(top) / 2.0f);
        at.cost = Floats(0.0f);
        for (int j = 0; j < subs; ++j) {
            Floats best_scale = at.scales[j], best_min = at.mins[j], least = Floats(INFINITY);
            for (int t = 0; t < 2 * reach + 1; ++t) {
                const float up = float(by_turns(t));
                const Floats scale = limited(at.scales[j] + up, 0.0f, float(steps));
                const Floats middle = at.mins[j] + whole(up * along);
                const Floats real = d * scale, per_real = inverse(real);
                for (int u = 0; u < 3; ++u) {
                    const Floats low =
                        limited(middle + float(by_turns(u)), 0.0f, float(steps));
                    const Floats cost = cost_of(j, real, per_real, dmin * low);
                    const Mask won = cost < least;
                    least = won ? cost : least;
                    best_scale = won ? scale : best_scale;
                    best_min = won ? low : best_min;
                }
            }
            at.scales[j] = best_scale;
            at.mins[j] = best_min;
            at.cost = at.cost + least;
        }
    }

    // The squared error at the nearest codes.
    Floats cost_of(int j, Floats scale, Floats per_scale, Floats low) const thread {
        Floats cost = Floats(0.0f);
        for (int i = j * size; i < (j + 1) * size; ++i) {
            const Floats shifted = blocks.x[i] + low;
            const Floats left = shifted - code(shifted, per_scale) * scale;
            cost = cost + blocks.weigh(left * left, i);
        }
        return cost;
    }

    // Step 4: the change of d and dmin that fits what is left best, then the nearest float16.
    void refit(thread State& at) const thread {
        Floats ss = Floats(0.0f), sm = ss, mm = ss, rs = ss, rm = ss;
        for (int j = 0; j < subs; ++j) {
            const Floats scale = scale_of(at, j), low = low_of(at, j), per_scale = inverse(scale);
            Floats square = Floats(0.0f), first = square, product = square, rest = square;
            for (int i = j * size; i < (j + 1) * size; ++i) {
                const Floats shifted = blocks.x[i] + low;
                const Floats q = code(shifted, per_scale);
                const Floats left = blocks.weigh(shifted - q * scale, i);
                const Floats weighed = blocks.weigh(q, i);
                square = square + weighed * q;
                first = first + weighed;
                product = product + q * left;
                rest = rest + left;
            }
            const Floats s = at.scales[j], m = at.mins[j];
            ss = ss + s * s * square;
            sm = sm + -s * m * first;
            mm = mm + m * m * blocks.total[j];
            rs = rs + s * product;
            rm = rm + -m * rest;
        }
        const Floats all = ss * mm - sm * sm;
        const Mask both = all > 1e-5f * (ss * mm);
        const Floats per_det = inverse(both ? all : ss);
        const Floats up = (both ? rs * mm - rm * sm : rs) * per_det;
        const Floats down = both ? (rm * ss - rs * sm) * per_det : Floats(0.0f);
        const Floats d = blocks.real(at.d), dmin = blocks.real(at.dmin);
        const Floats near_d = blocks.to_half(d + up) + 0.0f;
        const Floats near_dmin = blocks.to_half(dmin + down) + 0.0f;
        Floats least = Floats(0.0f);
        for (int t = 0; t < 3; ++t) {
            const Floats tried = t == 0 ? near_d : next_half(near_d, float(by_turns(t)));
            const Floats h = tried > 0.0f ? tried : Floats(0.0f);
            const Floats a = blocks.real(h) - d;
            for (int u = 0; u < 3; ++u) {
                const Floats g = u == 0 ? near_dmin : next_half(near_dmin, float(by_turns(u)));
                const Floats c = blocks.real(g) - dmin;
                const Floats own = a * (a * ss - (rs + rs)) + c * (c * mm - (rm + rm));
                const Floats cost = own + (a + a) * c * sm;
                const Mask won = cost < least;
                least = won ? cost : least;
                at.d = won ? h : at.d;
                at.dmin = won ? g : at.dmin;
            }
        }
    }

    // One weight over and over: the one of d and dmin that has its sign is that weight, and the
    // other what rounding it to float16 left.
    void take_constant() thread {
        const Mask same = blocks.constant_weights();
        const Floats weight = blocks.x[0], length = magnitude(weight);
        const Mask fits = (length > 0.0f) & (length <= blocks.real(Floats(65504.0f)));
        if (!some(same & fits)) {
            return;
        }
        Floats first = blocks.to_half(length);
        // d is not to be negative
        const Mask less = (weight < 0.0f) & (blocks.real(first) < length);
        first = less ? next_half(first + 0.0f, 1.0f) : first;
        const Floats left = blocks.to_half(blocks.real(first) - length);
        State exact;
        exact.d = weight > 0.0f ? first : left;
        exact.dmin = weight > 0.0f ? left : first;
        exact.cost = Floats(0.0f);
        for (int j = 0; j < subs; ++j) {
            exact.scales[j] = exact.mins[j] = Floats(1.0f);
        }
        state.take(same & fits, exact);
    }

    // Step 6.
    void lengthen() thread {
        const Restored<Blocks> before = restored(state);
        Floats length;
        const Floats by = stretch_of(before, length);
        State longer = state;
        longer.d = blocks.to_half(blocks.real(state.d) * by);
        longer.dmin = blocks.to_half(blocks.real(state.dmin) * by);
        const Mask won = restored(longer).loss(length) < before.loss(length);
        state.d = won ? longer.d : state.d;
        state.dmin = won ? longer.dmin : state.dmin;
    }

    Restored<Blocks> restored(const thread State& at) const thread {
        Restored<Blocks> weights = {blocks, codes, {}, {}};
        for (int j = 0; j < subs; ++j) {
            weights.scale[j] = scale_of(at, j);
            weights.low[j] = low_of(at, j);
        }
        return weights;
    }
};
