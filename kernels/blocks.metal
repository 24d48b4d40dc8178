// What every format's decoder shares: loads, small integers out of bytes, and where weights stand.
//
// A format is a struct of constants and one function:
//
//     weights, bytes    of a block
//     align             what a block's address is a multiple of: 4, 2 or 1
//     chunk             weights that one thread decodes; a block has weights / chunk parts
//     run, stride       weight i of part p is weight first(p) + i / run * stride + i % run of the
//                       block: a part is chunk / run runs of `run` neighbours
//     first(p)          as above
//     group             weights of a part, one after another, that have a scale of their own
//     biased            whether they have a bias too
//     codes(b, p, q, scales, biases)
//                       of part p of the block at b: codes q[0 … chunk), a scale for each group,
//                       and a bias if `biased`. Weight i is q[i] · scale + bias, rounded after each
//     decode(b, p, w)   these weights, w[0 … chunk)
//
// Parts follow the bytes, not the columns: where codes lie in planes, a part is what the same few
// bytes hold. So each byte of codes is loaded by one thread (of high bits, by two at most), and
// only scales are loaded by several. Decoders round as `decode_blocks` of mlxquant/formats does.
//
// Nothing here may depend on the fusing of a multiplication and an addition. Loops are unrolled whole:
// what a thread holds has to be in registers, which have no addresses.

#define UNROLL _Pragma("clang loop unroll(full)")
// A processor's compiler would call codes() and hand them over in memory.
#define INLINED inline __attribute__((always_inline))

// What every format's struct is derived from: weights from codes. One that is biased says so again.
template <typename Format>
struct Decoded {
    static constant constexpr bool biased = false;

    static void decode(const device uchar* block, int part, thread float* w) {
        float q[Format::chunk];
        float scales[Format::chunk / Format::group], biases[Format::chunk / Format::group];
        Format::codes(block, part, q, scales, biases);
        UNROLL
        for (int i = 0; i < Format::chunk; ++i) {
            const float scaled = q[i] * scales[i / Format::group];
            w[i] = Format::biased ? scaled + biases[i / Format::group] : scaled;
        }
    }
};

// Parts of 32 neighbours.
template <typename Format>
struct InOrder : Decoded<Format> {
    static constant constexpr int chunk = 32, run = 32, stride = 32;

    static int first(int part) { return 32 * part; }
};

// Parts of a 256-weight block in 4-bit planes of 32 bytes: 16 bytes, and so two runs of 16.
template <typename Format>
struct NibblePlanes : Decoded<Format> {
    static constant constexpr int chunk = 32, run = 16, stride = 32;

    static int first(int part) { return 64 * (part / 2) + 16 * (part % 2); }
};

// Parts of a 256-weight block in 2-bit planes of 32 bytes: 8 bytes, and so four runs of 8.
template <typename Format>
struct CrumbPlanes : Decoded<Format> {
    static constant constexpr int chunk = 32, run = 8, stride = 32;

    static int first(int part) { return 128 * (part / 4) + 8 * (part % 4); }
};

// A little-endian uint16 at a multiple of `align`.
template <int align>
inline uint load16(const device uchar* at) {
    if (align >= 2) {
        return *reinterpret_cast<const device ushort*>(at);
    }
    return uint(at[0]) | uint(at[1]) << 8;
}

// A little-endian uint32 at a multiple of `align`.
template <int align>
inline uint load32(const device uchar* at) {
    if (align >= 4) {
        return *reinterpret_cast<const device uint*>(at);
    }
    return load16<align>(at) | load16<align>(at + 2) << 16;
}

// A float16 as float.
inline float half_of(uint bits) {
    return float(as_type<half>(ushort(bits)));
}

// A float16 field, at a multiple of 2.
inline float load_half(const device uchar* at) {
    return half_of(load16<2>(at));
}

// Bits `at` to `at + width - 1` of a word, less `zero`, as float. Apple's GPUs take four times as
// long for a shift, or to convert a whole number, as for other operations (kernels_speed.py in
// benchmarks/ has the source): so bits stay where they are, as the fraction of that power of two of
// which they count ones, and the power is subtracted.
inline float number_of(uint word, int at, int width, int zero) {
    const bool low = at + width <= 23;
    const uint own = low ? word : word >> 16;
    const int first = low ? at : at - 16;
    const uint fraction = own & (((1u << width) - 1) << first);
    return as_type<float>(fraction | uint(150 - first) << 23) - float((1 << (23 - first)) + zero);
}

// Four bits, one to a byte: each at bit `to` of it.
inline uint spread(uint four, int to) {
    return (four & 15) * (0x204081u << to) & (0x01010101u << to);
}

// `count` bytes, a multiple of 4, in registers.
template <int count>
struct Bytes {
    uint words[count / 4];

    // Bits `shift` to `shift + width - 1` of byte i.
    int bits(int i, int shift, int width) const thread {
        return int(words[i / 4] >> (8 * (i % 4) + shift) & ((1u << width) - 1));
    }

    // The same, less `zero`.
    float number(int i, int shift, int width, int zero) const thread {
        return number_of(words[i / 4], 8 * (i % 4) + shift, width, zero);
    }

    // Of every byte bits `shift` to `shift + width - 1`, from bit `to` on; the others are clear.
    Bytes moved(int shift, int width, int to) const thread {
        const uint mask = ((1u << width) - 1) * 0x01010101 << to;
        Bytes result;
        UNROLL
        for (int i = 0; i < count / 4; ++i) {
            const uint word = shift > to ? words[i] >> (shift - to) : words[i] << (to - shift);
            result.words[i] = word & mask;
        }
        return result;
    }

    // What is above bit `shift` of a word, from bit 0 on.
    Bytes down(int shift) const thread {
        Bytes result;
        UNROLL
        for (int i = 0; i < count / 4; ++i) {
            result.words[i] = words[i] >> shift;
        }
        return result;
    }

    Bytes operator|(Bytes other) const thread {
        UNROLL
        for (int i = 0; i < count / 4; ++i) {
            other.words[i] |= words[i];
        }
        return other;
    }
};

// `count` bytes at a multiple of `align`, four elements of that size in a load.
template <int count, int align>
inline Bytes<count> load_bytes(const device uchar* at) {
    constexpr int words = count / 4, step = align >= 4 ? 4 : align >= 2 ? 2 : 1;
    Bytes<count> loaded;
    UNROLL
    for (int i = 0; i + step <= words; i += step) {
        if (align >= 4) {
            const uint4 four = *reinterpret_cast<const device packed_uint4*>(at + 4 * i);
            UNROLL
            for (int j = 0; j < step; ++j) {
                loaded.words[i + j] = four[j];
            }
        } else if (align >= 2) {
            const ushort4 four = *reinterpret_cast<const device packed_ushort4*>(at + 4 * i);
            const uint2 two = as_type<uint2>(four);
            loaded.words[i] = two[0];
            loaded.words[i + step - 1] = two[1];
        } else {
            const uchar4 four = *reinterpret_cast<const device packed_uchar4*>(at + 4 * i);
            loaded.words[i] = as_type<uint>(four);
        }
    }
    constexpr int done = words / step * step;
    if (words - done == 2) {
        const uint2 two = *reinterpret_cast<const device packed_uint2*>(at + 4 * done);
        loaded.words[words - 2] = two[0];
        loaded.words[words - 1] = two[1];
        return loaded;
    }
    UNROLL
    for (int i = done; i < words; ++i) {
        loaded.words[i] = load32<align>(at + 4 * i);
    }
    return loaded;
}

// A float as T, rounded to nearest, ties to even.
template <typename T>
inline T rounded(float value) {
    return T(value);
}

// Byte i of a word.
inline int byte_of(uint word, int i) {
    return int(word >> (8 * i) & 255);
}
