// The search for a scale of least weighted squared error: mlxquant/formats/scale_search.py.

#include "encode_plain.metal"

// `size` weights of each lane, and their importance v, the largest of each block made 1.
template <int size_, bool weighted_>
struct Searched {
    static constant constexpr int size = size_;
    static constant constexpr bool weighted = weighted_;

    Floats x[size];
    Floats v[weighted ? size : 1], wanted[weighted ? size : 1];

    Floats counted(Floats value, int i) const thread {
        return weighted ? value * v[weighted ? i : 0] : value;
    }

    // The largest importance.
    Floats largest() const thread {
        Floats found = v[0];
        for (int i = 1; i < size; ++i) {
            found = larger(v[weighted ? i : 0], found);
        }
        return found;
    }

    // Importance as it is given → the largest of a block 1; where all are 0, all 1.
    void weigh(Floats most) thread {
        const Mask some = most > 0.0f;
        for (int i = 0; i < size; ++i) {
            const int j = weighted ? i : 0;
            v[j] = some ? v[j] / most : Floats(1.0f);
            wanted[j] = x[i] * v[j];
        }
    }

    // v · x
    Floats goal(int i) const thread { return weighted ? wanted[weighted ? i : 0] : x[i]; }
};

// Of levels at a scale: Σ v·x·q and Σ v·q².
template <typename S, typename Levels>
struct ScaleMoments {
    using Value = Sums<2>;
    const thread S& block;
    const thread Levels& levels;
    Floats per_step;

    Value at(int i) const thread {
        const Floats q = levels.nearest(block.x[i] * per_step);
        Value terms;
        terms.of[0] = block.goal(i) * q;
        terms.of[1] = block.counted(q, i) * q;
        return terms;
    }
};

// The same, and the error of these levels.
template <typename S, typename Levels>
struct ScaleErrors {
    using Value = Sums<3>;
    const thread S& block;
    const thread Levels& levels;
    Floats scale, per_step;

    Value at(int i) const thread {
        const Floats q = levels.nearest(block.x[i] * per_step);
        const Floats off = block.x[i] - q * scale;
        Value terms;
        terms.of[0] = block.goal(i) * q;
        terms.of[1] = block.counted(q, i) * q;
        terms.of[2] = block.counted(off * off, i);
        return terms;
    }
};

// The best of the scales that put the extreme weight at each of `Levels::edge`, refitted.
template <typename S, typename Levels>
inline Floats best_scale(const thread S& block, const thread Levels& levels) {
    const Floats to_edge = inverse_of(extreme_of<S::size>(block.x));
    Floats gain = Floats(0.0f), scale = Floats(0.0f);
    for (int edge = 0; edge < Levels::edges; ++edge) {
        using M = ScaleMoments<S, Levels>;
        const Sums<2> sums = sum_of<S::size>(M{block, levels, to_edge * Levels::edge(edge)});
        const Floats fitted = sums.of[0] / sums.of[1];
        const Floats reached = fitted * sums.of[0];
        const Mask better = reached > gain;
        gain = better ? reached : gain;
        scale = better ? fitted : scale;
    }
    return scale;
}

// A float16 scale, refitted to the codes nearest to it while that helps; and its error.
struct Refined {
    Floats scale, error;
};

template <typename S, typename Levels>
inline Refined refined(const thread S& block, const thread Levels& levels, Floats scale) {
    Floats trial = clipped_half(scale);
    Refined best = {trial, Floats(INFINITY)};
    for (int round = 0; round < 3; ++round) {
        using E = ScaleErrors<S, Levels>;
        const Sums<3> sums = sum_of<S::size>(E{block, levels, trial, inverse_of(trial)});
        const Mask better = sums.of[2] < best.error;
        best.error = better ? sums.of[2] : best.error;
        best.scale = better ? trial : best.scale;
        const Floats fitted = sums.of[0] / sums.of[1];
        // infinity by 0 is NaN
        const Mask finite = fitted * 0.0f == 0.0f;
        trial = clipped_half(finite ? fitted : trial);
    }
    return best;
}
