// Products of many rows of x: tiles of weights, decoded once each, and simdgroup matrices.
//
//     threadgroup   128 threads, (128, 1, 1): a tile of `height` rows of x by `width` of weights
//     grid          (128 · ⌈n / width⌉, ⌈m / height⌉, 1)
//     height        16, 32 or 64
//     width         64, or 32 where there are few tiles: of fewer rows of weights a step takes more
//                   parts
//     T             float, half or bfloat: of x, of the product, and of the decoded weights
//     sums          float
//
// A step takes as many parts of each row of weights as give every thread one: two, or four. The
// four simdgroups multiply: simdgroup s has the rows of x in every other eight, from eight s / 2
// on, and half of the rows of weights, the first half where s is even.
//
// Both tiles hold their columns in the order of parts, so that what a thread decodes goes side by
// side; a sum does not mind. Rows are padded by 16 bytes: eight rows lie in different banks. What
// lies outside of m, n and k is zero in the tiles, and is neither read nor written.
//
//     memory     tile of x T [height, depth + pad], tile of weights T [width, depth + pad], where
//                depth is 64 or 128; then, in the same place, the sums: float [height, width + 4]

#include "parts.metal"

// For numbers of x of `size` bytes.
template <int height, int width, int size>
struct Tiles {
    static constant constexpr int threads = 128, parts = threads / width, depth = 32 * parts;
    static constant constexpr int stride = depth + 16 / size, sums_stride = width + 4;
    static constant constexpr int bytes_of_tiles = (height + width) * stride * size;
    static constant constexpr int bytes_of_sums = height * sums_stride * 4;
    // threadgroup memory in float4, which begins where any vector may
    static constant constexpr int quads =
        (bytes_of_tiles > bytes_of_sums ? bytes_of_tiles : bytes_of_sums) / 16;
    static_assert(16 * quads <= 32768, "a threadgroup has 32 KiB");
};

// Eight neighbours as they are, or zeros.
template <typename T>
inline void copy_eight(bool there, const device T* from, threadgroup T* to) {
    constexpr int step = 16 / int(sizeof(T));
    UNROLL
    for (int i = 0; i < 8; i += step) {
        uint4 four = uint4(0u);
        if (there) {
            four = *reinterpret_cast<const device packed_uint4*>(from + i);
        }
        *reinterpret_cast<threadgroup uint4*>(to + i) = four;
    }
}

// Rows of x of the tile from row `top` on, those from `begin` up to `end` (both of the tile); of
// the step's parts, from part `first` on.
template <typename Format, typename Shape, int height, typename T>
inline void load_x(
    const thread Product<T>& of, uint top, uint begin, uint end, uint first, threadgroup T* tile,
    uint thread_index
) {
    constexpr uint parts = Format::weights / Format::chunk;
    constexpr uint eights = Shape::depth / 8, rows = Shape::threads / eights;
    const uint eight = thread_index % eights, part = first + eight / 4, i = 8 * (eight % 4);
    const uint block = part / parts;
    const uint column = block * Format::weights + uint(Format::first(int(part % parts)))
        + offset_in_part<Format>(i);
    const bool inside = block * Format::weights < of.k;
    UNROLL
    for (uint turn = 0; turn < height / rows; ++turn) {
        const uint row = thread_index / eights + rows * turn;
        const bool there = inside && row >= begin && row < end;
        const device T* from = there ? of.x + ulong(top + row) * of.k + column : of.x;
        copy_eight(there, from, tile + row * Shape::stride + 8 * eight);
    }
}

// Rows of weights of the tile from row `left` on, of the same parts.
template <typename Format, typename Shape, typename T>
inline void load_weights(
    const thread Product<T>& of, uint left, uint first, threadgroup T* tile, uint thread_index
) {
    constexpr uint parts = Format::weights / Format::chunk;
    const uint row = thread_index / Shape::parts, own = thread_index % Shape::parts;
    const uint part = first + own, block = part / parts;
    float w[Format::chunk];
    if (left + row < of.n && block * Format::weights < of.k) {
        const device uchar* from = of.wire + ulong(left + row) * of.row_bytes;
        Format::decode(from + block * Format::bytes, int(part % parts), w);
    } else {
        UNROLL
        for (int i = 0; i < Format::chunk; ++i) {
            w[i] = 0.0f;
        }
    }
    threadgroup T* to = tile + row * Shape::stride + Format::chunk * own;
    UNROLL
    for (int i = 0; i < Format::chunk; i += 4) {
        vec<T, 4> four;
        UNROLL
        for (int j = 0; j < 4; ++j) {
            four[j] = rounded<T>(w[i + j]);
        }
        *reinterpret_cast<threadgroup vec<T, 4>*>(to + i) = four;
    }
}

// A simdgroup's sums: every other eight rows of x, by half of the rows of weights.
template <typename T, typename Shape, int height, int width>
struct SimdgroupSums {
    static constant constexpr int down = height / 16, across = width / 16;

    simdgroup_matrix<float, 8, 8> sums[down][across];
    // of the tile
    uint row, column;

    void start(uint simdgroup) thread {
        row = 8 * (simdgroup / 2);
        column = width / 2 * (simdgroup % 2);
        UNROLL
        for (int i = 0; i < down; ++i) {
            UNROLL
            for (int j = 0; j < across; ++j) {
                sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            }
        }
    }

    // Whether eight rows have one of `begin` up to `end`; the whole simdgroup agrees.
    bool wanted(int i, uint begin, uint end) const thread {
        const uint first = row + 16 * i;
        return first < end && first + 8 > begin;
    }

    // The products of both tiles; of eight rows of x that have none asked for, only if `all`.
    template <bool all>
    void add(const threadgroup T* x, const threadgroup T* weights, uint begin, uint end) thread {
        UNROLL
        for (int k = 0; k < Shape::depth; k += 8) {
            simdgroup_matrix<T, 8, 8> right[across];
            UNROLL
            for (int j = 0; j < across; ++j) {
                const threadgroup T* from = weights + (column + 8 * j) * Shape::stride + k;
                simdgroup_load(right[j], from, Shape::stride, ulong2(0), true);
            }
            UNROLL
            for (int i = 0; i < down; ++i) {
                if (all || wanted(i, begin, end)) {
                    simdgroup_matrix<T, 8, 8> left;
                    simdgroup_load(left, x + (row + 16 * i) * Shape::stride + k, Shape::stride);
                    UNROLL
                    for (int j = 0; j < across; ++j) {
                        simdgroup_multiply_accumulate(sums[i][j], left, right[j], sums[i][j]);
                    }
                }
            }
        }
    }

    void store(threadgroup float* to, uint begin, uint end) thread {
        UNROLL
        for (int i = 0; i < down; ++i) {
            if (wanted(i, begin, end)) {
                UNROLL
                for (int j = 0; j < across; ++j) {
                    threadgroup float* at =
                        to + (row + 16 * i) * Shape::sums_stride + column + 8 * j;
                    simdgroup_store(sums[i][j], at, Shape::sums_stride);
                }
            }
        }
    }
};

// Rows `begin` up to `end` of the tile at row `top` of x and row `left` of the weights; NaN where
// the weights are not known. All of a threadgroup's threads call it, several times if need be.
template <typename Format, int height, int width, typename T>
inline void multiply_tile(
    const thread Product<T>& of, threadgroup float4* memory, uint top, uint begin, uint end,
    uint left, uint thread_index, uint simdgroup
) {
    using Shape = Tiles<height, width, int(sizeof(T))>;
    threadgroup T* x = reinterpret_cast<threadgroup T*>(memory);
    threadgroup T* weights = x + height * Shape::stride;
    threadgroup float* sums = reinterpret_cast<threadgroup float*>(memory);
    SimdgroupSums<T, Shape, height, width> own;
    own.start(simdgroup);
    const bool all = begin < 8 && end > uint(height - 8);
    const uint parts = of.known ? of.k / Format::chunk : 0;
    for (uint first = 0; first < parts; first += Shape::parts) {
        // what is in the tiles, or the sums of the call before, has been read
        threadgroup_barrier(mem_flags::mem_threadgroup);
        load_x<Format, Shape, height>(of, top, begin, end, first, x, thread_index);
        load_weights<Format, Shape>(of, left, first, weights, thread_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (all) {
            own.template add<true>(x, weights, begin, end);
        } else {
            own.template add<false>(x, weights, begin, end);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    own.store(sums, begin, end);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint column = thread_index % width;
    if (left + column < of.n) {
        for (uint row = begin + thread_index / width; row < end; row += Shape::parts) {
            const float sum = of.known ? sums[row * Shape::sums_stride + column] : NAN;
            of.out[ulong(top + row) * of.n + left + column] = rounded<T>(sum);
        }
    }
}

template <typename Format, int height, int width, typename T>
inline void matmul(
    Product<T> of, threadgroup float4* memory, uint3 group, uint thread_index, uint simdgroup
) {
    const uint top = height * group.y, left = width * group.x;
    const uint rows = of.m - top < height ? of.m - top : height;
    multiply_tile<Format, height, width>(of, memory, top, 0, rows, left, thread_index, simdgroup);
}
