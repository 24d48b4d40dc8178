// Products with a matrix for each row of x: experts. Row i of x T [pairs, k] is multiplied with
// matrix ids[i] of uint8 [matrices, n, row_bytes] → row i of T [pairs, n]; NaN where there is no
// such matrix.
//
// gather_matvec and gather_matvec_split are matvec with one row of x: grid and threadgroup as
// there, and y of the grid names the row. The bits are matvec's.
//
// gather_matmul is matmul, with its grid, for rows in the order of their ids. A threadgroup takes
// runs of equal ids in its tile one after another. Any order gives the same product; many short
// runs give it slowly.

#include "matmul.metal"
#include "matvec.metal"

// Row `at` of x, of which there are as many as ids.
template <typename T>
inline Product<T> one_row(Product<T> whole, uint at) {
    whole.x += ulong(at) * whole.k;
    whole.out += ulong(at) * whole.n;
    whole.m = 1;
    return whole;
}

template <typename Format, int height, typename T>
inline void gather_matvec(
    Product<T> of, const device uint* ids, int matrices, uint3 group, uint simdgroup, uint lane
) {
    const Product<T> own = one_row(product_with(of, ids[group.y], matrices), group.y);
    matvec<Format, 1, height>(own, group.x, simdgroup, lane);
}

template <typename Format, int height, int split, typename T>
inline void gather_matvec_split(
    Product<T> of, const device uint* ids, int matrices, threadgroup float* partial, uint3 group,
    uint simdgroup, uint lane
) {
    const Product<T> own = one_row(product_with(of, ids[group.y], matrices), group.y);
    matvec_split<Format, 1, height, split>(own, partial, group.x, simdgroup, lane);
}

template <typename Format, int height, int width, typename T>
inline void gather_matmul(
    Product<T> of, const device uint* ids, int matrices, threadgroup float4* memory, uint3 group,
    uint thread_index, uint simdgroup
) {
    const uint top = height * group.y, left = width * group.x;
    const uint rows = of.m - top < height ? of.m - top : height;
    uint end = 0;
    for (uint begin = 0; begin < rows; begin = end) {
        const uint id = ids[top + begin];
        end = begin + 1;
        while (end < rows && ids[top + end] == id) {
            ++end;
        }
        const Product<T> own = product_with(of, id, matrices);
        multiply_tile<Format, height, width>(
            own, memory, top, begin, end, left, thread_index, simdgroup
        );
    }
}
