// The encoder of K-quants without mins: mlxquant/formats/k_scales.py, operation by operation.
//
//     w ≈ d · scale · q      Q3_K Q6_K
//
//     Limits     size, weights of a sub-block; codes are -half_codes … half_codes - 1, and scales
//                -steps … steps - 1; level(i), i below `levels`, of k_scales.py's LEVELS

#include "encode_k.metal"

// Of a sub-block: real scale, what it spares of the sum of squares, and Σ w · q².
struct ScaleFit {
    Floats scale, gain, square;

    void take(ScaleFit other) thread {
        const Mask won = other.gain > gain;
        scale = won ? other.scale : scale;
        gain = won ? other.gain : gain;
        square = won ? other.square : square;
    }
};

// d, float16; scales, whole numbers; and the error.
template <int subs>
struct ScaleState {
    Floats d, scales[subs], cost;

    void take(Mask won, const thread ScaleState& other) thread {
        d = won ? other.d : d;
        cost = won ? other.cost : cost;
        for (int j = 0; j < subs; ++j) {
            scales[j] = won ? other.scales[j] : scales[j];
        }
    }
};

template <typename Limits, bool weighted>
struct ScaleSearch {
    using Blocks = SuperBlocks<Limits::size, weighted>;
    static constant constexpr int size = Limits::size, subs = Blocks::subs;
    static constant constexpr int half_codes = Limits::half_codes, steps = Limits::steps;
    static constant constexpr bool few = half_codes == 4;
    using State = ScaleState<subs>;

    Blocks blocks;
    Floats scales[subs], squares[subs];
    State state;
    Floats codes[256];

    void run() thread {
        for (int j = 0; j < subs; ++j) {
            fit_sub_block(j);
        }
        start(state, few ? 0.64f : 0.84f, 1.04f);
        climb(state);
        if (!few) {
            State other;
            start(other, 0.64f, 0.84f);
            climb(other);
            state.take(other.cost < state.cost, other);
        }
        take_constant();
        const Floats d = blocks.real(state.d);
        for (int j = 0; j < subs; ++j) {
            const Floats per_scale = inverse(d * state.scales[j]);
            for (int i = j * size; i < (j + 1) * size; ++i) {
                codes[i] = code(blocks.x[i], per_scale);
            }
        }
        lengthen();
    }

    static Floats code(Floats value, Floats per_scale) {
        return limited(whole(value * per_scale), float(-half_codes), float(half_codes - 1));
    }

    // Step 1: with the largest weight at each of some real codes.
    void fit_sub_block(int j) thread {
        const thread Floats* x = blocks.x + j * size;
        Floats low = x[0], high = x[0];
        Floats weighed[size];
        for (int i = 0; i < size; ++i) {
            low = smaller(low, x[i]);
            high = larger(high, x[i]);
            weighed[i] = blocks.weigh(x[i], j * size + i);
        }
        const Floats per_edge = inverse(-low > high ? low : high);
        ScaleFit best = {Floats(0.0f), Floats(-INFINITY), Floats(0.0f)};
        for (int t = 0; t < Limits::levels; ++t) {
            best.take(fitted(j, weighed, Limits::level(t) * per_edge));
        }
        for (int t = 0; t < 2; ++t) {
            best.take(fitted(j, weighed, inverse(best.scale)));
        }
        scales[j] = best.scale;
        squares[j] = best.square;
    }

    // The scale that fits the nearest codes best.
    ScaleFit fitted(int j, const thread Floats* weighed, Floats per_scale) const thread {
        Floats along = Floats(0.0f), square = Floats(0.0f);
        for (int i = 0; i < size; ++i) {
            const Floats q = code(blocks.x[j * size + i], per_scale);
            along = along + weighed[i] * q;
            square = square + blocks.weigh(q, j * size + i) * q;
        }
        const Floats scale = along * inverse(square);
        return {scale, along * scale, square};
    }

    // Step 2.
    void start(thread State& at, float from, float to) const thread {
        at.d = blocks.template shared_scale<-steps, steps - 1>(scales, squares, from, to);
        const Floats per_d = inverse(blocks.real(at.d));
        for (int j = 0; j < subs; ++j) {
            at.scales[j] = limited(whole(scales[j] * per_d), float(-steps), float(steps - 1));
        }
    }

    // Steps 3 and 4.
    void climb(thread State& at) const thread {
        step(at, few ? 12 : 2);
        refit(at);
        step(at, 2);
        refit(at);
        step(at, 2);
    }

    // Step 3.
    void step(thread State& at, int reach) const thread {
        const Floats d = blocks.real(at.d);
        at.cost = Floats(0.0f);
        for (int j = 0; j < subs; ++j) {
            Floats best = at.scales[j], least = Floats(INFINITY);
            for (int t = 0; t < 2 * reach + 1; ++t) {
                const Floats near =
                    limited(at.scales[j] + float(by_turns(t)), float(-steps), float(steps - 1));
                const Floats cost = cost_of(j, d * near);
                const Mask won = cost < least;
                least = won ? cost : least;
                best = won ? near : best;
            }
            at.scales[j] = best;
            at.cost = at.cost + least;
        }
    }

    // The squared error at the nearest codes.
    Floats cost_of(int j, Floats scale) const thread {
        const Floats per_scale = inverse(scale);
        Floats cost = Floats(0.0f);
        for (int i = j * size; i < (j + 1) * size; ++i) {
            const Floats left = code(blocks.x[i], per_scale) * scale - blocks.x[i];
            cost = cost + blocks.weigh(left * left, i);
        }
        return cost;
    }

    // Step 4: the change of d that fits what is left best, then the nearest float16.
    void refit(thread State& at) const thread {
        const Floats d = blocks.real(at.d);
        Floats ss = Floats(0.0f), rs = Floats(0.0f);
        for (int j = 0; j < subs; ++j) {
            const Floats s = at.scales[j], scale = d * s, per_scale = inverse(scale);
            Floats square = Floats(0.0f), product = Floats(0.0f);
            for (int i = j * size; i < (j + 1) * size; ++i) {
                const Floats q = code(blocks.x[i], per_scale);
                square = square + blocks.weigh(q, i) * q;
                product = product + q * blocks.weigh(blocks.x[i] - q * scale, i);
            }
            ss = ss + s * s * square;
            rs = rs + s * product;
        }
        const Floats near = blocks.to_half(d + rs * inverse(ss));
        const Floats change = blocks.real(near) - d;
        at.d = change * (change * ss - (rs + rs)) < 0.0f ? near : at.d;
    }

    // One weight over and over: of all products of scale and code the first by which it comes
    // nearest to a float16.
    void take_constant() thread {
        const Mask same = blocks.constant_weights();
        if (!some(same)) {
            return;
        }
        const Floats weight = blocks.x[0];
        Floats best = Floats(0.0f), best_scale = Floats(1.0f), least = Floats(INFINITY);
        for (int scale = 1; scale <= steps; ++scale) {
            for (int q = 1; q <= half_codes; ++q) {
                const float product = float(scale * q);
                const Floats h = blocks.to_half(weight / product);
                const Floats off = magnitude(blocks.real(h) * product - weight);
                const Mask won = off < least;
                least = won ? off : least;
                best = won ? h : best;
                best_scale = won ? Floats(float(scale)) : best_scale;
            }
        }
        state.d = same ? best : state.d;
        for (int j = 0; j < subs; ++j) {
            state.scales[j] = same ? -best_scale : state.scales[j];
        }
    }

    // Step 6.
    void lengthen() thread {
        const Restored<Blocks> before = restored(state.d);
        Floats length;
        const Floats by = stretch_of(before, length);
        const Floats longer = blocks.to_half(blocks.real(state.d) * by);
        const Mask won = restored(longer).loss(length) < before.loss(length);
        state.d = won ? longer : state.d;
    }

    Restored<Blocks> restored(Floats h) const thread {
        Restored<Blocks> weights = {blocks, codes, {}, {}};
        for (int j = 0; j < subs; ++j) {
            weights.scale[j] = blocks.real(h) * state.scales[j];
            weights.low[j] = Floats(0.0f);
        }
        return weights;
    }
};
