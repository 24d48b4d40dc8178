// Weights from blocks, sixteen to a vector, in the order of a row: what product.h multiplies.
//
//     Wide<Format>::step             weights that are decoded at a time; a block has whole steps
//     Wide<Format>::decode(b, s, w)  step s of the block at b to w[0 … step / 16)
//
// Any format has one, out of its `decode` (blocks.metal). wide_formats.h and wide_codebooks.h have
// better ones; what these share is here.

#define ALWAYS __attribute__((always_inline)) inline
#define SIXTEEN(type, name) typedef type name __attribute__((ext_vector_type(16)))

SIXTEEN(float, Floats);
SIXTEEN(int, Ints);
SIXTEEN(uint, Uints);
SIXTEEN(uchar, Uchars);
SIXTEEN(char, Chars);
typedef uchar Plane __attribute__((ext_vector_type(32)));

// Any vector, at any address of whatever space.
template <typename Vector, typename Pointer>
ALWAYS Vector load_vector(Pointer at) {
    Vector loaded;
    __builtin_memcpy(&loaded, (const void*)at, sizeof(Vector));
    return loaded;
}

template <typename Format>
struct Wide {
    static constexpr bool in_order = Format::run == Format::chunk;
    static constexpr int step = in_order ? Format::chunk : Format::weights;

    static ALWAYS void decode(const device uchar* block, int s, Floats* w) {
        float row[step];
        UNROLL
        for (int part = 0; part < step / Format::chunk; ++part) {
            float values[Format::chunk];
            Format::decode(block, in_order ? s : part, values);
            float* const begin = row + (in_order ? 0 : Format::first(part));
            UNROLL
            for (int i = 0; i < Format::chunk; ++i) {
                begin[i / Format::run * Format::stride + i % Format::run] = values[i];
            }
        }
        UNROLL
        for (int i = 0; i < step / 16; ++i) {
            w[i] = load_vector<Floats>(row + 16 * i);
        }
    }
};

// Bytes as signed numbers.
ALWAYS Floats floats_of(Uchars bytes) {
    return __builtin_convertvector(__builtin_bit_cast(Chars, bytes), Floats);
}

// Whole numbers below 2^31.
ALWAYS Floats whole_of(Uints numbers) {
    return __builtin_convertvector(__builtin_bit_cast(Ints, numbers), Floats);
}

// Numbers that are taken one by one, each for many weights. They are kept in memory, since a
// processor loads one number into all lanes at once; out of a register it takes longer, and the
// compiler, unless it is kept from seeing it, would choose that.
template <typename Number, int count>
struct Kept {
    Number values[count];

    template <typename Vector>
    ALWAYS Kept(Vector from) {
        static_assert(sizeof(Vector) == sizeof(values), "as many");
        __builtin_memcpy(values, &from, sizeof(values));
        asm volatile("" : "+m"(values));
    }
    ALWAYS Number operator[](int i) const { return values[i]; }
};
using Sixteen = Kept<float, 16>;

// Sixteen codes of 2 bits from a word, the first one lowest; the rest of the word above each.
ALWAYS Uints crumbs_in(uint word) {
    const Uints down = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return Uints(word) >> down;
}

// Their values; as of `values_of` they are looked up where there is an instruction for it.
template <typename Value>
ALWAYS Floats values_of_crumbs(uint word, Value value) {
#ifdef __AVX512F__
    const Floats all = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    return __builtin_ia32_permvarsf512(value(all), __builtin_bit_cast(Ints, crumbs_in(word)));
#else
    return value(whole_of(crumbs_in(word) & 3));
#endif
}
