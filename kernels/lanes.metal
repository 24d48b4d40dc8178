// Numbers side by side, one a block: sixteen to a thread where a processor's instructions take so
// many at once, one where there are as many threads as blocks.
//
//     LANES    how many
//     Floats   a float in each lane; Mask what comparing two gives, Words uint
//
// Arithmetic, comparison, `mask ? a : b`, & and | are the language's own; what differs has a name
// here, or for a processor in lanes.h. A number for every lane is Floats(1.0f).

#include "blocks.metal"

#ifndef LANES
#define LANES 1

using Floats = float;
using Mask = bool;
using Words = uint;

inline float lane(Floats values, int) {
    return values;
}

inline uint lane(Words values, int) {
    return values;
}

// `size` neighbours of each lane, a multiple of 16, from where it reads.
template <int size>
inline void load_lanes(thread Floats* values, const device float* const thread* from) {
    for (int i = 0; i < size; ++i) {
        values[i] = from[0][i];
    }
}

// The first `bytes` of each lane's little-endian words, the next lane's behind them, to a multiple of
// `align`, 2 or 4; an even number of them, of so many lanes.
template <int bytes, int align>
inline void store_lanes(device uchar* to, const thread Words* words, int) {
    if (align >= 4) {
        for (int i = 0; i < bytes / 4; ++i) {
            reinterpret_cast<device uint*>(to)[i] = words[i];
        }
        return;
    }
    for (int i = 0; i < bytes / 2; ++i) {
        reinterpret_cast<device ushort*>(to)[i] = ushort(words[i / 2] >> uint(16 * (i % 2)));
    }
}

// To the nearest whole number, ties to even.
inline Floats whole(Floats values) {
    return rint(values);
}

inline Floats floor_of(Floats values) {
    return floor(values);
}

inline Floats magnitude(Floats values) {
    return fabs(values);
}

// Of 0 … 2^31, rounded down.
inline Words to_words(Floats values) {
    return Words(values);
}

inline Words bits_of(Floats values) {
    return as_type<Words>(values);
}

inline Floats of_bits(Words values) {
    return as_type<Floats>(values);
}

// The nearest float16.
inline Floats through_half(Floats values) {
    return Floats(half(values));
}

// The bits of the nearest float16.
inline Words half_bits(Floats values) {
    return as_type<ushort>(half(values));
}

// Whether it holds in any lane.
inline bool some(Mask mask) {
    return mask;
}
#endif

// The nearest bfloat16; NaN stays.
inline Floats through_bfloat(Floats values) {
    const Words all = bits_of(values);
    const Words rounded = (all + 0x7FFFu + (all >> 16 & 1u)) & 0xFFFF0000u;
    return values != values ? values : of_bits(rounded);
}

// Of a zero of either sign and another zero, either may be taken.
inline Floats smaller(Floats a, Floats b) {
    return a < b ? a : b;
}

inline Floats larger(Floats a, Floats b) {
    return a > b ? a : b;
}

// Whole numbers of 0 … top; NaN stays.
inline Floats clipped(Floats values, float top) {
    const Floats above = values < 0.0f ? Floats(0.0f) : values;
    return above > top ? Floats(top) : above;
}

// Sums that are made together.
template <int count>
struct Sums {
    Floats of[count];

    Sums operator+(const thread Sums& other) const thread {
        Sums both;
        UNROLL
        for (int i = 0; i < count; ++i) {
            both.of[i] = of[i] + other.of[i];
        }
        return both;
    }
};

// Σ of `size` values, a power of two: halves are added to halves. What is in `values` is lost.
template <int size, typename Value>
struct Fold {
    static Value sum(thread Value* values) {
        UNROLL
        for (int i = 0; i < size / 2; ++i) {
            values[i] = values[i] + values[i + size / 2];
        }
        return Fold<size / 2, Value>::sum(values);
    }
};

template <typename Value>
struct Fold<1, Value> {
    static Value sum(thread Value* values) { return values[0]; }
};

// Σ terms.at(i), i below `size`, in the order of Fold: every eighth term first, so that few sums
// are held at a time.
template <int size, typename Terms>
inline typename Terms::Value sum_of(const thread Terms& terms) {
    typename Terms::Value sums[8];
    for (int r = 0; r < 8; ++r) {
        typename Terms::Value own[size / 8];
        UNROLL
        for (int j = 0; j < size / 8; ++j) {
            own[j] = terms.at(r + 8 * j);
        }
        sums[r] = Fold<size / 8, typename Terms::Value>::sum(own);
    }
    return Fold<8, typename Terms::Value>::sum(sums);
}
