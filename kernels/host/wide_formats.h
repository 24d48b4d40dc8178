// Decoders for formats whose codes are numbers: planes of codes stay bytes for as long as can be.
//
// Each is its format's `decode` and rounds alike; a known answer holds both to NumPy's bits. The
// layouts are drawn in <format>.metal.

#include "k_scales.metal"
#include "mxfp4.metal"
#include "nvfp4.metal"
#include "tables/IQ4_NL_LEVELS.metal"
#include "tables/E2M1_LEVELS.metal"

// The values of sixteen codes of 4 bits. Where there is an instruction for it they are looked up
// among those of all codes, which are computed once for all weights that share a scale.
template <typename Value>
ALWAYS Floats values_of(Uchars codes, Value value) {
#ifdef __AVX512F__
    const Floats all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return __builtin_ia32_permvarsf512(value(all), __builtin_convertvector(codes, Ints));
#else
    return value(floats_of(codes));
#endif
}

// The entries of a table of sixteen small whole numbers, times a scale.
ALWAYS Floats looked_up(Floats table, float scale, Uchars codes) {
#ifdef __AVX512F__
    return __builtin_ia32_permvarsf512(table * scale, __builtin_convertvector(codes, Ints));
#else
    const Chars entries = __builtin_convertvector(table, Chars);
    Uchars found;
#if defined(__SSSE3__)
    found = __builtin_bit_cast(Uchars, __builtin_ia32_pshufb128(entries, codes));
#elif defined(__aarch64__)
    asm("tbl %0.16b, {%1.16b}, %2.16b" : "=w"(found) : "w"(entries), "w"(codes));
#else
    UNROLL
    for (int i = 0; i < 16; ++i) {
        found[i] = uchar(entries[codes[i] & 15]);
    }
#endif
    return floats_of(found) * scale;
#endif
}

// One float16 at the beginning, then 16 bytes with weights 0 … 15 in the low halves; or 32 bytes.
template <>
struct Wide<struct Q4_0> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        const Uchars qs = load_vector<Uchars>(block + 2);
        const auto value = [=](Floats code) { return (code - 8.0f) * d; };
        w[0] = values_of(qs & 15, value);
        w[1] = values_of(qs >> 4, value);
    }
};

template <>
struct Wide<struct Q4_1> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block), m = load_half(block + 2);
        const Uchars qs = load_vector<Uchars>(block + 4);
        const auto value = [=](Floats code) { return code * d + m; };
        w[0] = values_of(qs & 15, value);
        w[1] = values_of(qs >> 4, value);
    }
};

// Sixteen bits, each 16 in its byte.
ALWAYS Uchars fifth_bits(uint word) {
    const Uchars bytes = {
        uchar(word), uchar(word), uchar(word), uchar(word), uchar(word), uchar(word),
        uchar(word), uchar(word), uchar(word >> 8), uchar(word >> 8), uchar(word >> 8),
        uchar(word >> 8), uchar(word >> 8), uchar(word >> 8), uchar(word >> 8), uchar(word >> 8),
    };
    const Uchars bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return __builtin_bit_cast(Uchars, (bytes & bit) == bit) & 16;
}

template <>
struct Wide<struct Q5_0> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        const uint qh = load32<2>(block + 2);
        const Uchars qs = load_vector<Uchars>(block + 6);
        w[0] = floats_of(((qs & 15) | fifth_bits(qh)) - 16) * d;
        w[1] = floats_of((qs >> 4 | fifth_bits(qh >> 16)) - 16) * d;
    }
};

template <>
struct Wide<struct Q5_1> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block), m = load_half(block + 2);
        const uint qh = load32<4>(block + 4);
        const Uchars qs = load_vector<Uchars>(block + 8);
        w[0] = floats_of((qs & 15) | fifth_bits(qh)) * d + m;
        w[1] = floats_of(qs >> 4 | fifth_bits(qh >> 16)) * d + m;
    }
};

template <>
struct Wide<struct Q8_0> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        w[0] = floats_of(load_vector<Uchars>(block + 2)) * d;
        w[1] = floats_of(load_vector<Uchars>(block + 18)) * d;
    }
};

template <>
struct Wide<struct IQ4_NL> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        const Floats levels = load_vector<Floats>(IQ4_NL_LEVELS);
        const Uchars qs = load_vector<Uchars>(block + 2);
        w[0] = looked_up(levels, d, qs & 15);
        w[1] = looked_up(levels, d, qs >> 4);
    }
};

template <>
struct Wide<struct IQ4_XS> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int s, Floats* w) {
        const uint high = load16<2>(block + 2) >> (2 * s) & 3;
        const uint low = load32<4>(block + 4) >> (4 * s) & 15;
        const float scale = load_half(block) * float(int(low | high << 4) - 32);
        const Floats levels = load_vector<Floats>(IQ4_NL_LEVELS);
        const Uchars qs = load_vector<Uchars>(block + 8 + 16 * s);
        w[0] = looked_up(levels, scale, qs & 15);
        w[1] = looked_up(levels, scale, qs >> 4);
    }
};

// 256 weights in planes of 32 bytes; plane p of a run, shifted, holds 32 neighbours.
template <>
struct Wide<struct Q2_K> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Uchars packed = load_vector<Uchars>(block);
        const Sixteen scales(floats_of(packed & 15) * load_half(block + 80));
        const Sixteen lows(floats_of(packed >> 4) * load_half(block + 82));
        UNROLL
        for (int n = 0; n < 2; ++n) {
            const Plane qs = load_vector<Plane>(block + 16 + 32 * n);
            UNROLL
            for (int p = 0; p < 4; ++p) {
                const Plane codes = qs >> uchar(2 * p) & 3;
                const int s = 8 * n + 2 * p;
                w[s] = floats_of(codes.lo) * scales[s] - lows[s];
                w[s + 1] = floats_of(codes.hi) * scales[s + 1] - lows[s + 1];
            }
        }
    }
};

template <>
struct Wide<struct Q3_K> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const uint a = load32<2>(block + 96), b = load32<2>(block + 100);
        const uint c = load32<2>(block + 104);
        const uint4 low = uint4{a, b, a >> 4, b >> 4} & 0x0F0F0F0F;
        const uint4 high = uint4{c, c >> 2, c >> 4, c >> 6} & 0x03030303;
        const Uchars packed = __builtin_bit_cast(Uchars, low | high << 4) - 32;
        const Sixteen scales(floats_of(packed) * load_half(block + 108));
        const Plane hmask = load_vector<Plane>(block);
        UNROLL
        for (int n = 0; n < 2; ++n) {
            const Plane qs = load_vector<Plane>(block + 32 + 32 * n);
            UNROLL
            for (int p = 0; p < 4; ++p) {
                const Plane high_bits = hmask >> uchar(4 * n + p) & 1;
                const Plane codes = (qs >> uchar(2 * p) & 3 | high_bits << 2) - 4;
                const int s = 8 * n + 2 * p;
                w[s] = floats_of(codes.lo) * scales[s];
                w[s + 1] = floats_of(codes.hi) * scales[s + 1];
            }
        }
    }
};

// Eight scales times d, and eight mins times dmin, of Q4_K and Q5_K.
ALWAYS Floats scales_and_lows(const device uchar* block) {
    const KScales lower = load_k_scales(block + 4, 0), upper = load_k_scales(block + 4, 1);
    const uint4 packed = {lower.scales, upper.scales, lower.mins, upper.mins};
    const float d = load_half(block), m = load_half(block + 2);
    const Floats both = {d, d, d, d, d, d, d, d, m, m, m, m, m, m, m, m};
    return floats_of(__builtin_bit_cast(Uchars, packed)) * both;
}

template <>
struct Wide<struct Q4_K> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Sixteen scales(scales_and_lows(block));
        UNROLL
        for (int n = 0; n < 4; ++n) {
            const Plane qs = load_vector<Plane>(block + 16 + 32 * n);
            UNROLL
            for (int s = 2 * n; s < 2 * n + 2; ++s) {
                const float scale = scales[s], low = scales[8 + s];
                const auto value = [=](Floats code) { return code * scale - low; };
                const Plane codes = s % 2 ? qs >> 4 : qs & 15;
                w[2 * s] = values_of(codes.lo, value);
                w[2 * s + 1] = values_of(codes.hi, value);
            }
        }
    }
};

template <>
struct Wide<struct Q5_K> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Sixteen scales(scales_and_lows(block));
        const Plane qh = load_vector<Plane>(block + 16);
        UNROLL
        for (int n = 0; n < 4; ++n) {
            const Plane qs = load_vector<Plane>(block + 48 + 32 * n);
            UNROLL
            for (int s = 2 * n; s < 2 * n + 2; ++s) {
                const Plane codes = (s % 2 ? qs >> 4 : qs & 15) | (qh >> uchar(s) & 1) << 4;
                w[2 * s] = floats_of(codes.lo) * scales[s] - scales[8 + s];
                w[2 * s + 1] = floats_of(codes.hi) * scales[s] - scales[8 + s];
            }
        }
    }
};

template <>
struct Wide<struct Q6_K> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Uchars packed = load_vector<Uchars>(block + 192);
        const Sixteen scales(floats_of(packed) * load_half(block + 208));
        UNROLL
        for (int n = 0; n < 2; ++n) {
            const Plane qh = load_vector<Plane>(block + 128 + 32 * n);
            UNROLL
            for (int p = 0; p < 4; ++p) {
                const Plane ql = load_vector<Plane>(block + 64 * n + 32 * (p % 2));
                const Plane low = p / 2 ? ql >> 4 : ql & 15;
                const Plane codes = (low | (qh >> uchar(2 * p) & 3) << 4) - 32;
                const int s = 8 * n + 2 * p;
                w[s] = floats_of(codes.lo) * scales[s];
                w[s + 1] = floats_of(codes.hi) * scales[s + 1];
            }
        }
    }
};

template <>
struct Wide<struct TQ2_0> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block + 64);
        UNROLL
        for (int n = 0; n < 2; ++n) {
            const Plane qs = load_vector<Plane>(block + 32 * n);
            UNROLL
            for (int p = 0; p < 4; ++p) {
                const Plane codes = (qs >> uchar(2 * p) & 3) - 1;
                w[8 * n + 2 * p] = floats_of(codes.lo) * d;
                w[8 * n + 2 * p + 1] = floats_of(codes.hi) * d;
            }
        }
    }
};

// The digit of three levels that each byte begins with, less one: below 86 it is 0, from 171 on 2.
template <typename Bytes>
ALWAYS Bytes first_digits(Bytes bytes) {
    return ~__builtin_bit_cast(Bytes, (bytes > 85) + (bytes > 170));
}

// Times three a byte begins with its next digit.
template <>
struct Wide<struct TQ1_0> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block + 52);
        Plane qs = load_vector<Plane>(block);
        Uchars rest = load_vector<Uchars>(block + 32);
        UNROLL
        for (int digit = 0; digit < 5; ++digit) {
            const Plane codes = first_digits(qs);
            w[2 * digit] = floats_of(codes.lo) * d;
            w[2 * digit + 1] = floats_of(codes.hi) * d;
            w[10 + digit] = floats_of(first_digits(rest)) * d;
            qs = qs * 3;
            rest = rest * 3;
        }
        const uint4 qh = load32<2>(block + 48);
        const Uchars powers = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
        w[15] = floats_of(first_digits(__builtin_bit_cast(Uchars, qh) * powers)) * d;
    }
};

template <>
struct Wide<struct MXFP4> {
    static constexpr int step = 32;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = MXFP4::half_scale(block[0]);
        const Floats levels = load_vector<Floats>(E2M1_LEVELS);
        const Uchars qs = load_vector<Uchars>(block + 1);
        w[0] = looked_up(levels, d, qs & 15);
        w[1] = looked_up(levels, d, qs >> 4);
    }
};

// Eight bytes a group, with weights 0 … 7 in the low halves.
template <>
struct Wide<struct NVFP4> {
    static constexpr int step = 64;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Floats levels = load_vector<Floats>(E2M1_LEVELS);
        const Plane qs = load_vector<Plane>(block + 4);
        const ulong4 low = __builtin_bit_cast(ulong4, qs & 15);
        const ulong4 high = __builtin_bit_cast(ulong4, qs >> 4);
        UNROLL
        for (int g = 0; g < 4; ++g) {
            const ulong2 both = {low[g], high[g]};
            const float d = NVFP4::half_scale(block[g]);
            w[g] = looked_up(levels, d, __builtin_bit_cast(Uchars, both));
        }
    }
};

// Every bit takes or gives a sign.
template <>
struct Wide<struct Q1_0> {
    static constexpr int step = 128;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Uints negative = __builtin_bit_cast(Uints, Floats(-load_half(block)));
        const Uints up = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
        UNROLL
        for (int i = 0; i < 8; i += 2) {
            const Uints word = load32<2>(block + 2 + 2 * i);
            const Uints first = word << (up + 16) & 0x80000000, second = word << up & 0x80000000;
            w[i] = __builtin_bit_cast(Floats, first ^ negative);
            w[i + 1] = __builtin_bit_cast(Floats, second ^ negative);
        }
    }
};

template <>
struct Wide<struct Q2_0> {
    static constexpr int step = 64;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        const auto value = [=](Floats code) { return (code - 1.0f) * d; };
        UNROLL
        for (int i = 0; i < 4; ++i) {
            w[i] = values_of_crumbs(load32<2>(block + 2 + 4 * i), value);
        }
    }
};
