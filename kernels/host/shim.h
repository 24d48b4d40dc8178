// Metal's language, as far as the kernels use it, for clang compiling them as C++.
//
// Address spaces are numbered, so that a pointer that lacks its qualifier, or has another one's, is
// refused as Metal refuses it; a processor has one memory and ignores them. `thread` is the space of
// locals, C++'s own. Values, rounding and integer widths are Metal's.
//
// check.h watches accesses to one memory: CHECKED, there are no spaces.
#ifdef CHECKED
#define device
#define constant
#define threadgroup
#else
#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#endif
#define thread
#define kernel

#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
// `long` has 64 bits on every system that mlxquant knows
using ulong = unsigned long;
using int8_t = signed char;
using uint8_t = uchar;
using int16_t = short;
using uint16_t = ushort;
using int32_t = int;
using uint32_t = uint;
using int64_t = long;
using uint64_t = ulong;
static_assert(sizeof(ulong) == 8 && char(-1) < 0, "compile with -fsigned-char");

using half = _Float16;

template <typename To, typename From>
inline To as_type(From value) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the bits");
    return __builtin_bit_cast(To, value);
}

using bfloat = __bf16;

// `rounded` of blocks.metal, for bfloat: a processor's own conversion flushes subnormal numbers, and
// without one the compiler calls a function that not every system has.
template <typename T>
T rounded(float value);
template <>
inline bfloat rounded<bfloat>(float value) {
    const uint whole = as_type<uint>(value);
    const uint bits = (whole + 0x7FFF + (whole >> 16 & 1)) >> 16;
    return as_type<bfloat>(value != value ? ushort(0x7FC0) : ushort(bits));
}
using float16_t = half;
using bfloat16_t = bfloat;

#define VECTORS(type)                                          \
    typedef type type##2 __attribute__((ext_vector_type(2)));  \
    typedef type type##3 __attribute__((ext_vector_type(3)));  \
    typedef type type##4 __attribute__((ext_vector_type(4)));
VECTORS(char)
VECTORS(uchar)
VECTORS(short)
VECTORS(ushort)
VECTORS(int)
VECTORS(uint)
VECTORS(long)
VECTORS(ulong)
VECTORS(half)
VECTORS(bfloat)
VECTORS(float)
#undef VECTORS

// At any multiple of an element's size.
typedef uchar packed_uchar4 __attribute__((ext_vector_type(4), aligned(1)));
typedef ushort packed_ushort4 __attribute__((ext_vector_type(4), aligned(2)));
typedef float packed_float4 __attribute__((ext_vector_type(4), aligned(4)));
typedef uint packed_uint2 __attribute__((ext_vector_type(2), aligned(4)));
typedef uint packed_uint4 __attribute__((ext_vector_type(4), aligned(4)));

inline uint popcount(uint word) {
    return uint(__builtin_popcount(word));
}
