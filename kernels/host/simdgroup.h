// Metal's simdgroup functions, 8 × 8 matrices of a simdgroup, and barriers.
//
// CHECKED, they are defined: a thread leaves what it gives in a slot, waits until its simdgroup has
// come to the same place, and takes what it asks for. Otherwise they are declared only, so that clang
// can refuse a wrong address space; nothing calls them.

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

inline mem_flags operator|(mem_flags a, mem_flags b) {
    return mem_flags(uint(a) | uint(b));
}

#ifdef CHECKED
#pragma clang attribute push(__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)

// the line that calls
#define HERE unsigned long here = __builtin_LINE()

inline void threadgroup_barrier(mem_flags flags, HERE) {
    check::arrive(check::GROUP_BARRIER, "threadgroup_barrier", here, uint(flags));
}

inline void simdgroup_barrier(mem_flags flags, HERE) {
    check::arrive(check::SIMD_BARRIER, "simdgroup_barrier", here, uint(flags));
}

namespace check {

// What the threads of this simdgroup gave at one operation.
struct Given {
    const Slot* slots;
    uint count;  // threads of the simdgroup

    template <typename T>
    T of(uint which) const {
        T value;
        __builtin_memcpy(&value, slots[which].bytes, sizeof(T));
        return value;
    }
};

template <typename T>
inline Given give(const T& mine, const char* name, Size here) {
    static_assert(sizeof(T) <= sizeof(Slot), "room for what a thread gives");
    const uint simdgroup = lane / WIDTH, own = lane % WIDTH;
    Slot* of_this = slots[simdgroup][lanes[lane].made % 2];
    __builtin_memcpy(of_this[own].bytes, &mine, sizeof(T));
    arrive(SIMD, name, here, 0);
    const uint rest = lanes_there - simdgroup * WIDTH;
    return {of_this, rest < WIDTH ? rest : WIDTH};
}

[[noreturn]] static void wrong_lane(What what, const char* name, Size asked, Size here) {
    Failure failure = {};
    failure.what = what;
    failure.name = name;
    failure.at = asked;
    failure.place = here;
    fail(failure);
}

template <typename T>
inline T taken(const Given& given, uint from, const char* name, Size here) {
    if (from >= given.count) {
        wrong_lane(NO_SUCH_LANE, name, from, here);
    }
    return given.of<T>(from);
}

// Halves are combined with halves, a lane's partner first the one 16 away: every lane gets the same.
template <typename T, typename Combine>
inline T reduced(T mine, Combine combine, const char* name, Size here) {
    const Given given = give(mine, name, here);
    T values[WIDTH];
    for (uint i = 0; i < given.count; ++i) {
        values[i] = given.of<T>(i);
    }
    for (uint half = WIDTH / 2; half; half /= 2) {
        for (uint i = 0; i < half && i + half < given.count; ++i) {
            values[i] = combine(values[i], values[i + half]);
        }
    }
    return values[0];
}

template <typename T>
struct Asked {
    T value;
    uint from;
};

// An argument that has to be the same in every thread.
template <typename T>
inline void uniform(const Given& given, uint mine, const char* name, Size here) {
    for (uint i = 0; i < given.count; ++i) {
        if (given.of<Asked<T>>(i).from != mine) {
            wrong_lane(NOT_UNIFORM, name, mine, here);
        }
    }
}

template <typename T>
inline T shuffled(T value, uint argument, bool same, int way, const char* name, Size here) {
    const Given given = give(Asked<T>{value, argument}, name, here);
    if (same) {
        uniform<T>(given, argument, name, here);
    }
    const uint own = lane % WIDTH;
    uint from = argument;
    if (way == 1) {
        from = own + argument < WIDTH ? own + argument : own;
    } else if (way == -1) {
        from = own >= argument ? own - argument : own;
    } else if (way == 2) {
        from = own ^ argument;
    }
    return taken<Asked<T>>(given, from, name, here).value;
}

template <typename T, typename Combine>
inline T prefix(T mine, T neutral, bool inclusive, Combine combine, const char* name, Size here) {
    const Given given = give(mine, name, here);
    T result = neutral;
    for (uint i = 0; i < lane % WIDTH + inclusive; ++i) {
        result = combine(result, given.of<T>(i));
    }
    return result;
}

inline bool vote(bool mine, bool all, const char* name, Size here) {
    const Given given = give(mine, name, here);
    uint yes = 0;
    for (uint i = 0; i < given.count; ++i) {
        yes += given.of<bool>(i);
    }
    return all ? yes == given.count : yes != 0;
}
}  // namespace check

#define REDUCTION(name, expression)                                                                \
    template <typename T>                                                                          \
    inline T name(T value, HERE) {                                                                 \
        return check::reduced(value, [](T a, T b) { return T(expression); }, #name, here);         \
    }
REDUCTION(simd_sum, a + b)
REDUCTION(simd_product, a * b)
REDUCTION(simd_max, max(a, b))
REDUCTION(simd_min, min(a, b))
REDUCTION(simd_or, a | b)
REDUCTION(simd_and, a & b)
REDUCTION(simd_xor, a ^ b)
#undef REDUCTION

#define SHUFFLE(name, same, way)                                                                   \
    template <typename T>                                                                          \
    inline T name(T value, ushort argument, HERE) {                                                \
        return check::shuffled(value, argument, same, way, #name, here);                           \
    }
SHUFFLE(simd_shuffle, false, 0)
SHUFFLE(simd_shuffle_xor, true, 2)
SHUFFLE(simd_shuffle_down, true, 1)
SHUFFLE(simd_shuffle_up, true, -1)
SHUFFLE(simd_broadcast, true, 0)
#undef SHUFFLE

template <typename T>
inline T simd_broadcast_first(T value, HERE) {
    return check::shuffled(value, 0, true, 0, "simd_broadcast_first", here);
}

template <typename T>
inline T simd_prefix_inclusive_sum(T value, HERE) {
    return check::prefix(
        value, T(0), true, [](T a, T b) { return T(a + b); }, "simd_prefix_inclusive_sum", here
    );
}

template <typename T>
inline T simd_prefix_exclusive_sum(T value, HERE) {
    return check::prefix(
        value, T(0), false, [](T a, T b) { return T(a + b); }, "simd_prefix_exclusive_sum", here
    );
}

inline bool simd_all(bool value, HERE) {
    return check::vote(value, true, "simd_all", here);
}

inline bool simd_any(bool value, HERE) {
    return check::vote(value, false, "simd_any", here);
}

// Two elements a thread, as Apple's GPUs hold them: neighbours of a row.
template <typename T, int columns, int rows>
struct simdgroup_matrix {
    static_assert(columns == 8 && rows == 8, "Metal has 8 by 8");

    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal) {
        const uint2 at = place();
        elements[0] = at.x == at.y ? diagonal : T(0);
        elements[1] = at.x + 1 == at.y ? diagonal : T(0);
    }

    thread vec<T, 2>& thread_elements() { return elements; }
    const thread vec<T, 2>& thread_elements() const { return elements; }

    // Column and row of the first element.
    static uint2 place() {
        const uint own = check::lane % check::WIDTH, quad = own / 4;
        return uint2{(quad & 2) * 2 + own % 2 * 2, (quad & 4) + own / 2 % 4};
    }

    vec<T, 2> elements;
};

template <typename T, int columns, int rows>
inline simdgroup_matrix<T, columns, rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, columns, rows> filled;
    filled.elements = vec<T, 2>{value, value};
    return filled;
}

namespace check {

struct Tile {
    Size address, elements_per_row;
    ulong2 origin;
    bool transpose;
};

// Every thread has to name the same tile.
template <typename T>
inline T* element_of(
    T* at, Size elements_per_row, ulong2 origin, bool transpose, int i, uint2 place
) {
    const Size x = place.x + i, y = place.y;
    return at + (transpose ? (x + origin.y) * elements_per_row + y + origin.x
                           : (y + origin.y) * elements_per_row + x + origin.x);
}

inline void same_tile(const Tile& mine, const char* name, Size here) {
    const Given given = give(mine, name, here);
    const Tile first = given.of<Tile>(0);
    if (given.count != WIDTH) {
        wrong_lane(NO_SUCH_LANE, name, WIDTH - 1, here);
    }
    if (first.address != mine.address || first.elements_per_row != mine.elements_per_row ||
        first.origin.x != mine.origin.x || first.origin.y != mine.origin.y ||
        first.transpose != mine.transpose) {
        wrong_lane(NOT_UNIFORM, name, 0, here);
    }
}

struct Operands {
    float a[2], b[2];
};

// Who holds an element.
inline uint holder(uint x, uint y) {
    return (x >> 1 & 1) | (y & 3) << 1 | (x >> 2 & 1) << 3 | (y >> 2 & 1) << 4;
}
}  // namespace check

template <typename T>
inline void simdgroup_load(
    thread simdgroup_matrix<T, 8, 8>& to, const T* from, ulong elements_per_row = 8,
    ulong2 origin = 0, bool transpose = false, HERE
) {
    check::same_tile({ulong(from), elements_per_row, origin, transpose}, "simdgroup_load", here);
    for (int i = 0; i < 2; ++i) {
        const T* at = check::element_of(from, elements_per_row, origin, transpose, i, to.place());
        check::aligned<sizeof(T)>(at, false, here);
        to.elements[i] = *at;
    }
}

template <typename T>
inline void simdgroup_store(
    simdgroup_matrix<T, 8, 8> from, T* to, ulong elements_per_row = 8, ulong2 origin = 0,
    bool transpose = false, HERE
) {
    check::same_tile({ulong(to), elements_per_row, origin, transpose}, "simdgroup_store", here);
    for (int i = 0; i < 2; ++i) {
        T* at = check::element_of(to, elements_per_row, origin, transpose, i, from.place());
        check::aligned<sizeof(T)>(at, true, here);
        *at = from.elements[i];
    }
}

// d = a · b + c, in float, in the order of the inner dimension.
template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, const thread simdgroup_matrix<C, 8, 8>& c, HERE
) {
    const char* name = "simdgroup_multiply_accumulate";
    const check::Operands mine = {
        {float(a.elements[0]), float(a.elements[1])}, {float(b.elements[0]), float(b.elements[1])}};
    const check::Given given = check::give(mine, name, here);
    if (given.count != check::WIDTH) {
        check::wrong_lane(check::NO_SUCH_LANE, name, check::WIDTH - 1, here);
    }
    const uint2 place = d.place();
    float sums[2] = {float(c.elements[0]), float(c.elements[1])};
    for (uint k = 0; k < 8; ++k) {
        const auto* of_a = (const check::Operands*)given.slots[check::holder(k, place.y)].bytes;
        const auto* of_b = (const check::Operands*)given.slots[check::holder(place.x, k)].bytes;
        const float left = of_a->a[k % 2];
        sums[0] = fma(left, of_b->b[0], sums[0]);
        sums[1] = fma(left, of_b->b[1], sums[1]);
    }
    d.elements[0] = D(sums[0]);
    d.elements[1] = D(sums[1]);
}

template <typename D, typename A, typename B>
inline void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, HERE
) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)), here);
}
#pragma clang attribute pop
#undef HERE

#else

void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);

#define OF_ONE(name)      \
    template <typename T> \
    T name(T value);
OF_ONE(simd_sum)
OF_ONE(simd_product)
OF_ONE(simd_max)
OF_ONE(simd_min)
OF_ONE(simd_or)
OF_ONE(simd_and)
OF_ONE(simd_xor)
OF_ONE(simd_broadcast_first)
OF_ONE(simd_prefix_inclusive_sum)
OF_ONE(simd_prefix_exclusive_sum)
#undef OF_ONE

#define OF_TWO(name)      \
    template <typename T> \
    T name(T value, ushort argument);
OF_TWO(simd_shuffle)
OF_TWO(simd_shuffle_xor)
OF_TWO(simd_shuffle_down)
OF_TWO(simd_shuffle_up)
OF_TWO(simd_broadcast)
#undef OF_TWO

bool simd_all(bool value);
bool simd_any(bool value);

template <typename T, int columns, int rows>
struct simdgroup_matrix {
    static_assert(columns == 8 && rows == 8, "Metal has 8 by 8");

    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal);
    thread vec<T, 2>& thread_elements();
    const thread vec<T, 2>& thread_elements() const;
};

template <typename T, int columns, int rows>
simdgroup_matrix<T, columns, rows> make_filled_simdgroup_matrix(T value);

#define OF_SPACE(space)                                                                     \
    template <typename T>                                                                   \
    void simdgroup_load(                                                                    \
        thread simdgroup_matrix<T, 8, 8>& to, const space T* from, ulong elements_per_row = 8, \
        ulong2 origin = 0, bool transpose = false                                           \
    );                                                                                      \
    template <typename T>                                                                   \
    void simdgroup_store(                                                                   \
        simdgroup_matrix<T, 8, 8> from, space T* to, ulong elements_per_row = 8,            \
        ulong2 origin = 0, bool transpose = false                                           \
    );
OF_SPACE(device)
OF_SPACE(threadgroup)
#undef OF_SPACE

template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, const thread simdgroup_matrix<C, 8, 8>& c
);

template <typename D, typename A, typename B>
void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b
);

#endif

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;
