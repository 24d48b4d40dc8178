// What the products share: x beside the parts of packed rows, and what a product is of.
//
// Part i of a row is part i % parts of its block i / parts, where a block has `parts`, as in
// blocks.metal. x is read in a part's order, eight neighbours at a time, so that weights need not
// be moved: runs are of eight at least, and k is whole blocks. x may start at any multiple of 4
// bytes.

#include "blocks.metal"

// x T [m, k] and packed rows uint8 [n, row_bytes] → T [m, n]. Where the rows are not `known`,
// nothing of them is read, and the product is NaN.
template <typename T>
struct Product {
    const device T* x;
    const device uchar* wire;
    device T* out;
    uint m, n, k, row_bytes;
    bool known;
};

template <typename T>
inline Product<T> product_of(
    const device T* x, int m, int k, const device uchar* wire, int n, int row_bytes, device T* out
) {
    Product<T> made;
    made.x = x;
    made.wire = wire;
    made.out = out;
    made.m = uint(m);
    made.n = uint(n);
    made.k = uint(k);
    made.row_bytes = uint(row_bytes);
    made.known = true;
    return made;
}

// The same with matrix `id` of uint8 [matrices, n, row_bytes]; not known where there is none.
template <typename T>
inline Product<T> product_with(Product<T> whole, uint id, int matrices) {
    whole.known = id < uint(matrices);
    whole.wire += whole.known ? ulong(id) * whole.n * whole.row_bytes : 0;
    return whole;
}

// How far behind a part's first weight its weight i stands.
template <typename Format>
inline uint offset_in_part(uint i) {
    return i / Format::run * Format::stride + i % Format::run;
}

// Eight neighbours, 16 bytes in a load.
inline void load_eight(const device float* at, thread float* values) {
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        const float4 four = *reinterpret_cast<const device packed_float4*>(at + i);
        UNROLL
        for (int j = 0; j < 4; ++j) {
            values[i + j] = four[j];
        }
    }
}

inline void load_eight(const device half* at, thread float* values) {
    const uint4 words = *reinterpret_cast<const device packed_uint4*>(at);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        const half2 two = as_type<half2>(words[i]);
        values[2 * i] = float(two[0]);
        values[2 * i + 1] = float(two[1]);
    }
}

// A bfloat is the upper half of a float.
inline void load_eight(const device bfloat* at, thread float* values) {
    const uint4 words = *reinterpret_cast<const device packed_uint4*>(at);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = as_type<float>(words[i] << 16);
        values[2 * i + 1] = as_type<float>(words[i] & 0xFFFF0000);
    }
}

// The numbers of x that a part's weights are for; `at` that of its first.
template <typename Format, typename T>
inline void load_part(const device T* at, thread float* values) {
    UNROLL
    for (int i = 0; i < Format::chunk; i += 8) {
        load_eight(at + offset_in_part<Format>(i), values + i);
    }
}
