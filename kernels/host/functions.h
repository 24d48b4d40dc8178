// Functions of Metal's standard library for numbers and vectors of them, as the kernels use them.

template <typename T, int count>
using vec = T __attribute__((ext_vector_type(count)));

// A vector's elements and their count; a number is a vector of one.
template <typename T>
struct Elements {
    using Of = T;
    static constexpr int count = 1;
    static T get(const T& value, int) { return value; }
    static void set(T& value, int, T element) { value = element; }
};
template <typename T, int n>
struct Elements<T __attribute__((ext_vector_type(n)))> {
    using Vector = T __attribute__((ext_vector_type(n)));
    using Of = T;
    static constexpr int count = n;
    static T get(const Vector& value, int i) { return value[i]; }
    static void set(Vector& value, int i, T element) { value[i] = element; }
};

// `function` of each element.
template <typename T, typename Function, typename... More>
inline T elementwise(Function function, T first, More... more) {
    T result;
    for (int i = 0; i < Elements<T>::count; ++i) {
        Elements<T>::set(
            result, i, function(Elements<T>::get(first, i), Elements<More>::get(more, i)...)
        );
    }
    return result;
}

// In float, for half and bfloat too: one rounding more, to the type.
#define OF_FLOATS(name, builtin)                                                           \
    template <typename T>                                                                  \
    inline T name(T x) {                                                                   \
        using Of = typename Elements<T>::Of;                                               \
        return elementwise<T>([](Of v) { return Of(builtin(float(v))); }, x);              \
    }
OF_FLOATS(fabs, __builtin_fabsf)
OF_FLOATS(floor, __builtin_floorf)
OF_FLOATS(ceil, __builtin_ceilf)
OF_FLOATS(trunc, __builtin_truncf)
OF_FLOATS(rint, __builtin_rintf)
OF_FLOATS(round, __builtin_roundf)
OF_FLOATS(sqrt, __builtin_sqrtf)
OF_FLOATS(exp, __builtin_expf)
OF_FLOATS(exp2, __builtin_exp2f)
OF_FLOATS(log, __builtin_logf)
OF_FLOATS(log2, __builtin_log2f)
#undef OF_FLOATS

template <typename T>
inline T rsqrt(T x) {
    return T(1) / sqrt(x);
}

template <typename T>
inline T abs(T x) {
    using Of = typename Elements<T>::Of;
    return elementwise<T>([](Of v) { return v < Of(0) ? Of(-v) : Of(v + Of(0)); }, x);
}

// As Metal's: of a number and a NaN, the number.
template <typename T>
inline T min(T x, T y) {
    using Of = typename Elements<T>::Of;
    return elementwise<T>([](Of a, Of b) { return b < a || a != a ? b : a; }, x, y);
}

template <typename T>
inline T max(T x, T y) {
    using Of = typename Elements<T>::Of;
    return elementwise<T>([](Of a, Of b) { return b > a || a != a ? b : a; }, x, y);
}

template <typename T>
inline T clamp(T x, T low, T high) {
    return min(max(x, low), high);
}

// One rounding.
inline float fma(float x, float y, float z) {
    return __builtin_fmaf(x, y, z);
}

template <typename T>
inline T fma(T x, T y, T z) {
    using Of = typename Elements<T>::Of;
    return elementwise<T>(
        [](Of a, Of b, Of c) { return Of(__builtin_fmaf(float(a), float(b), float(c))); }, x, y, z
    );
}

template <typename T>
inline typename Elements<T>::Of dot(T x, T y) {
    typename Elements<T>::Of sum = Elements<T>::get(x, 0) * Elements<T>::get(y, 0);
    for (int i = 1; i < Elements<T>::count; ++i) {
        sum += Elements<T>::get(x, i) * Elements<T>::get(y, i);
    }
    return sum;
}

template <typename T>
inline T select(T x, T y, bool second) {
    return second ? y : x;
}

inline float ldexp(float x, int power) {
    return __builtin_ldexpf(x, power);
}

inline uint clz(uint word) {
    return word ? uint(__builtin_clz(word)) : 32;
}

inline uint ctz(uint word) {
    return word ? uint(__builtin_ctz(word)) : 32;
}

// What simdgroup.h and matrix.h define, or declared.h declares.
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

inline mem_flags operator|(mem_flags a, mem_flags b) {
    return mem_flags(uint(a) | uint(b));
}

template <typename T, int columns, int rows>
struct simdgroup_matrix;

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;
