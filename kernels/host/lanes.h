// What lanes.metal asks for, on a processor: sixteen numbers side by side.

#define LANES 16
typedef float Floats __attribute__((ext_vector_type(LANES)));
typedef int Mask __attribute__((ext_vector_type(LANES)));
typedef uint Words __attribute__((ext_vector_type(LANES)));
typedef half Halves __attribute__((ext_vector_type(LANES)));

inline float lane(Floats values, int at) {
    return values[at];
}

inline uint lane(Words values, int at) {
    return values[at];
}

inline Floats whole(Floats values) {
    return __builtin_elementwise_roundeven(values);
}

inline Floats floor_of(Floats values) {
    return __builtin_elementwise_floor(values);
}

inline Floats magnitude(Floats values) {
    return __builtin_elementwise_abs(values);
}

inline Words to_words(Floats values) {
    // with a sign, which every processor has an instruction for
    return __builtin_bit_cast(Words, __builtin_convertvector(values, Mask));
}

inline Words bits_of(Floats values) {
    return __builtin_bit_cast(Words, values);
}

inline Floats of_bits(Words values) {
    return __builtin_bit_cast(Floats, values);
}

inline Floats through_half(Floats values) {
    return __builtin_convertvector(__builtin_convertvector(values, Halves), Floats);
}

inline Words half_bits(Floats values) {
    typedef ushort Shorts __attribute__((ext_vector_type(LANES)));
    return __builtin_convertvector(
        __builtin_bit_cast(Shorts, __builtin_convertvector(values, Halves)), Words
    );
}

inline bool some(Mask mask) {
    return __builtin_reduce_or(mask) != 0;
}

// Rows become columns: four times, numbers of the first half of the rows and of the second half take
// turns.
template <typename Row>
inline void transpose(Row* rows) {
    static_assert(LANES == 16, "2^4 rows");
    Row others[LANES];
    Row *from = rows, *to = others;
    _Pragma("clang loop unroll(full)")
    for (int step = 0; step < 4; ++step) {
        for (int i = 0; i < LANES / 2; ++i) {
            const Row a = from[i], b = from[i + LANES / 2];
            to[2 * i] = __builtin_shufflevector(
                a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
            );
            to[2 * i + 1] = __builtin_shufflevector(
                a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
            );
        }
        Row* const done = to;
        to = from;
        from = done;
    }
}

template <int size>
inline void load_lanes(Floats* values, const device float* const* from) {
    typedef float Unaligned __attribute__((ext_vector_type(LANES), aligned(4)));
    static_assert(size % LANES == 0, "whole squares");
    for (int begin = 0; begin < size; begin += LANES) {
        Floats rows[LANES];
        for (int l = 0; l < LANES; ++l) {
            rows[l] = *reinterpret_cast<const device Unaligned*>(from[l] + begin);
        }
        transpose(rows);
        for (int i = 0; i < LANES; ++i) {
            values[begin + i] = rows[i];
        }
    }
}

template <int bytes, int align>
inline void store_lanes(device uchar* to, const Words* words, int lanes) {
    constexpr int count = (bytes + 3) / 4;
    for (int begin = 0; begin < count; begin += LANES) {
        Words rows[LANES];
        for (int i = 0; i < LANES; ++i) {
            rows[i] = words[begin + i < count ? begin + i : count - 1];
        }
        transpose(rows);
        const int left = bytes - 4 * begin;
        for (int l = 0; l < lanes; ++l) {
            uchar* const at = (uchar*)to + l * bytes + 4 * begin;
            __builtin_memcpy(at, rows + l, left < 4 * LANES ? left : 4 * LANES);
        }
    }
}
