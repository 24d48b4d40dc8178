// What the products share: x beside the parts of packed rows, and what a product is of.
//
// Part i of a row is part i % parts of its block i / parts, where a block has `parts`, as in
// blocks.metal. x is read in a part's order, four neighbours at a time, so that weights need not be
// moved. k is whole blocks: each row of x, and each run in it, starts at a multiple of eight numbers
// of an array that itself starts at a multiple of four.

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

// Four neighbours, at a multiple of four numbers.
template <typename T>
inline vec<T, 4> load_four(const device T* at) {
    return *reinterpret_cast<const device vec<T, 4>*>(at);
}

// The numbers of x that a part's weights are for; `at` that of its first.
template <typename Format, typename T>
inline void load_part(const device T* at, thread float* values) {
    UNROLL
    for (int i = 0; i < Format::chunk; i += 4) {
        const vec<T, 4> four = load_four(at + offset_in_part<Format>(i));
        UNROLL
        for (int j = 0; j < 4; ++j) {
            values[i + j] = float(four[j]);
        }
    }
}
