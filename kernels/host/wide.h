// Weights from blocks, sixteen to a vector, in the order of a row: what product.h multiplies.
//
//     Wide<Format>::step             weights that are decoded at a time; a block has whole steps
//     Wide<Format>::decode(b, s, w)  step s of the block at b to w[0 … step / 16)
//
// Every format has one, out of its `decode` (blocks.metal). wide_formats.h has better ones.

#define ALWAYS __attribute__((always_inline)) inline
#define SIXTEEN(type, name) typedef type name __attribute__((ext_vector_type(16)))

SIXTEEN(uchar, Uchars);
SIXTEEN(char, Chars);
SIXTEEN(ushort, Ushorts);
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
