// Metal's 8 × 8 matrices of a simdgroup.

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
    __attribute__((no_sanitize("thread", "coverage"))) static uint2 place() {
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

#ifndef COUNTED
// a call each: they are not the kernel's own work, and long
#pragma clang attribute push( \
    __attribute__((no_sanitize("thread", "coverage"), noinline)), apply_to = function \
)

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
#else
// For arithmetic.py: instructions of which only is known what they take and give.
template <typename T>
inline uint bits_in(T value) {
    return uint(as_type<ushort>(value));
}
template <>
inline uint bits_in(float value) {
    return as_type<uint>(value);
}
template <typename T>
inline T out_of(uint bits) {
    return as_type<T>(ushort(bits));
}
template <>
inline float out_of(uint bits) {
    return as_type<float>(bits);
}

template <typename T>
inline void simdgroup_load(
    thread simdgroup_matrix<T, 8, 8>& to, const T* from, ulong elements_per_row = 8, ulong2 = 0,
    bool = false
) {
    uint a, b;
    asm volatile("" : "=r"(a), "=r"(b) : "r"(from), "r"(elements_per_row));
    to.elements = vec<T, 2>{out_of<T>(a), out_of<T>(b)};
}

template <typename T>
inline void simdgroup_store(
    simdgroup_matrix<T, 8, 8> from, T* to, ulong elements_per_row = 8, ulong2 = 0, bool = false
) {
    const uint a = bits_in(T(from.elements[0])), b = bits_in(T(from.elements[1]));
    asm volatile("" : : "r"(a), "r"(b), "r"(to), "r"(elements_per_row));
}

template <typename D, typename A, typename B, typename C>
inline void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, const thread simdgroup_matrix<C, 8, 8>& c
) {
    uint first, second;
    asm volatile(""
                 : "=r"(first), "=r"(second)
                 : "r"(bits_in(A(a.elements[0]))), "r"(bits_in(A(a.elements[1]))),
                   "r"(bits_in(B(b.elements[0]))), "r"(bits_in(B(b.elements[1]))),
                   "0"(bits_in(C(c.elements[0]))), "1"(bits_in(C(c.elements[1]))));
    d.elements = vec<D, 2>{out_of<D>(first), out_of<D>(second)};
}

template <typename D, typename A, typename B>
inline void simdgroup_multiply(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b
) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)));
}
#endif
#undef HERE
