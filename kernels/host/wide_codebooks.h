// Decoders for the formats with codebooks: points are loaded whole, and signs are set 32 at a time.
//
// Each is its format's `decode` and rounds alike, as those of wide_formats.h. The layouts are drawn
// in <format>.metal. A point of IQ1 has two bits a coordinate, so that two points are a word of
// sixteen codes; a point of the others has a byte a coordinate (codebook.metal).

#include "tables/IQ1_S_GRID.metal"
#include "tables/IQ2_XXS_GRID.metal"
#include "tables/IQ2_XS_GRID.metal"
#include "tables/IQ2_S_GRID.metal"
#include "tables/IQ3_XXS_GRID.metal"
#include "tables/IQ3_S_GRID.metal"

typedef uint Words __attribute__((ext_vector_type(8)));
typedef float Eight __attribute__((ext_vector_type(8)));
typedef ushort Groups __attribute__((ext_vector_type(32)));

ALWAYS Eight numbers_of(Words words) {
    typedef int Whole __attribute__((ext_vector_type(8)));
    return __builtin_convertvector(__builtin_bit_cast(Whole, words), Eight);
}

// Eight coordinates, which are two words of a table.
ALWAYS ulong eight_at(constant uint* grid, uint point) {
    return load_vector<ulong>(grid + 2 * point);
}

// Of seven signs in each byte, the eighth makes the number of negative weights even.
ALWAYS Plane with_eighths(Plane sevens) {
    Plane odd = sevens ^ sevens >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return sevens | odd << 7;
}

// The signs of 32 weights in a word, from 28 bits of each.
ALWAYS Words spread_sevens(Words words) {
    const Words low = (words & 0x7F) | (words << 1 & 0x7F00);
    const Words high = (words << 2 & 0x7F0000) | (words << 3 & 0x7F000000);
    return __builtin_bit_cast(Words, with_eighths(__builtin_bit_cast(Plane, low | high)));
}

// 32 weights: coordinates, negated where a word's bit is set, times a scale for each half.
ALWAYS void put_signed(Plane points, uint signs, float first, float second, Floats* w) {
    const Plane bytes = __builtin_bit_cast(Plane, Words(signs));
    // eight of each byte of the word; the last two from the upper half, where a shuffle finds them
    const Plane each = __builtin_shufflevector(
        bytes, bytes, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,
        18, 18, 18, 18, 18, 18, 18, 18, 19, 19, 19, 19, 19, 19, 19, 19
    );
    const Plane bit = {
        1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
        1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128,
    };
    const Plane negative = __builtin_bit_cast(Plane, (each & bit) == bit);
    const Plane codes = (points ^ negative) - negative;
    w[0] = floats_of(codes.lo) * first;
    w[1] = floats_of(codes.hi) * second;
}

// The halves of eight bytes, of each byte the low one first.
ALWAYS Uchars halves_of(const device uchar* at) {
    const ulong bytes = load_vector<ulong>(at);
    const ulong2 both = {bytes & 0x0F0F0F0F0F0F0F0F, bytes >> 4 & 0x0F0F0F0F0F0F0F0F};
    const Uchars halves = __builtin_bit_cast(Uchars, both);
    return __builtin_shufflevector(
        halves, halves, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15
    );
}

template <>
struct Wide<struct IQ2_XXS> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Words first = load_vector<Words>(block + 2), second = load_vector<Words>(block + 34);
        const Words words = __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15);
        const Eight odd = numbers_of(2 * (words >> 28) + 1);
        const Kept<float, 8> scales(odd * 0.125f * load_half(block));
        const Kept<uint, 8> signs(spread_sevens(words));
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* index = block + 2 + 8 * p;
            const ulong4 points = {
                eight_at(IQ2_XXS_GRID, index[0]), eight_at(IQ2_XXS_GRID, index[1]),
                eight_at(IQ2_XXS_GRID, index[2]), eight_at(IQ2_XXS_GRID, index[3]),
            };
            const float scale = scales[p];
            put_signed(__builtin_bit_cast(Plane, points), signs[p], scale, scale, w + 2 * p);
        }
    }
};

template <>
struct Wide<struct IQ2_XS> {
    static constexpr int step = 256;

    static ALWAYS ulong point(const device uchar* group) {
        return eight_at(IQ2_XS_GRID, load16<2>(group) & 511);
    }

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Plane sevens = __builtin_convertvector(load_vector<Groups>(block + 2) >> 9, Plane);
        const Kept<uint, 8> signs(with_eighths(sevens));
        const Uchars odd = 2 * halves_of(block + 66) + 1;
        const Sixteen scales(floats_of(odd) * 0.125f * load_half(block));
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* at = block + 2 + 8 * p;
            const ulong4 points = {point(at), point(at + 2), point(at + 4), point(at + 6)};
            const float first = scales[2 * p], second = scales[2 * p + 1];
            put_signed(__builtin_bit_cast(Plane, points), signs[p], first, second, w + 2 * p);
        }
    }
};

template <>
struct Wide<struct IQ2_S> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Uchars odd = 2 * halves_of(block + 74) + 1;
        const Sixteen scales(floats_of(odd) * 0.125f * load_half(block));
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* low = block + 2 + 4 * p;
            const uint high = block[66 + p];
            const ulong4 points = {
                eight_at(IQ2_S_GRID, low[0] | (high << 8 & 0x300)),
                eight_at(IQ2_S_GRID, low[1] | (high << 6 & 0x300)),
                eight_at(IQ2_S_GRID, low[2] | (high << 4 & 0x300)),
                eight_at(IQ2_S_GRID, low[3] | (high << 2 & 0x300)),
            };
            const uint signs = load32<2>(block + 34 + 4 * p);
            const float first = scales[2 * p], second = scales[2 * p + 1];
            put_signed(__builtin_bit_cast(Plane, points), signs, first, second, w + 2 * p);
        }
    }
};

template <>
struct Wide<struct IQ3_XXS> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const Words words = load_vector<Words>(block + 66);
        const Eight odd = numbers_of(2 * (words >> 28) + 1);
        const Kept<float, 8> scales(odd * 0.25f * load_half(block));
        const Kept<uint, 8> signs(spread_sevens(words));
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* index = block + 2 + 8 * p;
            Words points;
            UNROLL
            for (int g = 0; g < 8; ++g) {
                points[g] = IQ3_XXS_GRID[index[g]];
            }
            const float scale = scales[p];
            put_signed(__builtin_bit_cast(Plane, points), signs[p], scale, scale, w + 2 * p);
        }
    }
};

template <>
struct Wide<struct IQ3_S> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* low = block + 2 + 8 * p;
            const uint high = uint(block[66 + p]) << 8;
            Words points;
            UNROLL
            for (int g = 0; g < 8; ++g) {
                points[g] = IQ3_S_GRID[low[g] | (high >> g & 0x100)];
            }
            const uint signs = load32<2>(block + 74 + 4 * p);
            const uint l = block[106 + p / 2] >> (4 * (p % 2)) & 15;
            const float scale = d * float(int(2 * l + 1));
            put_signed(__builtin_bit_cast(Plane, points), signs, scale, scale, w + 2 * p);
        }
    }
};

template <>
struct Wide<struct IQ1_S> {
    static constexpr int step = 256;

    static ALWAYS uint two_points(uint first, uint second) {
        return IQ1_S_GRID[first] | uint(IQ1_S_GRID[second]) << 16;
    }

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const float d = load_half(block);
        UNROLL
        for (int p = 0; p < 8; ++p) {
            const device uchar* low = block + 2 + 4 * p;
            const uint word = load16<2>(block + 34 + 2 * p);
            const float scale = d * float(int(2 * (word >> 12 & 7) + 1));
            const float zero = word >> 15 ? -1.125f : -0.875f;
            const auto value = [=](Floats code) { return (code + zero) * scale; };
            w[2 * p] = values_of_crumbs(
                two_points(low[0] | (word << 8 & 0x700), low[1] | (word << 5 & 0x700)), value
            );
            w[2 * p + 1] = values_of_crumbs(
                two_points(low[2] | (word << 2 & 0x700), low[3] | (word >> 1 & 0x700)), value
            );
        }
    }
};

// What is added to the codes of two points of IQ1_M, eight times for each: bits 0 and 1 of the index
// say whether the first one's and the second one's shift is negative.
#define EIGHT_TIMES(value) value, value, value, value, value, value, value, value
constant float IQ1_M_ZEROS[4][16] = {
    {EIGHT_TIMES(-0.875f), EIGHT_TIMES(-0.875f)},
    {EIGHT_TIMES(-1.125f), EIGHT_TIMES(-0.875f)},
    {EIGHT_TIMES(-0.875f), EIGHT_TIMES(-1.125f)},
    {EIGHT_TIMES(-1.125f), EIGHT_TIMES(-1.125f)},
};

template <>
struct Wide<struct IQ1_M> {
    static constexpr int step = 256;

    static ALWAYS void decode(const device uchar* block, int, Floats* w) {
        const uint a = load32<4>(block + 48), b = load32<4>(block + 52);
        const float d = half_of(
            (a >> 12 & 0xF) | (a >> 24 & 0xF0) | (b >> 4 & 0xF00) | (b >> 16 & 0xF000)
        );
        const Uints words = {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
        const Uints down = {0, 3, 6, 9, 16, 19, 22, 25, 0, 3, 6, 9, 16, 19, 22, 25};
        const Sixteen scales(whole_of(2 * (words >> down & 7) + 1) * d);
        UNROLL
        for (int s = 0; s < 16; ++s) {
            const device uchar* low = block + 2 * s;
            const uint high = block[32 + s];
            const uint first = IQ1_S_GRID[low[0] | (high << 8 & 0x700)];
            const uint second = IQ1_S_GRID[low[1] | (high << 4 & 0x700)];
            const uint signs = (high >> 3 & 1) | (high >> 6 & 2);
            const Floats zero = load_vector<Floats>(IQ1_M_ZEROS[signs]);
            w[s] = (whole_of(crumbs_in(first | second << 16) & 3) + zero) * scales[s];
        }
    }
};
