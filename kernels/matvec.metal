// Products of up to eight rows of x: every weight is read and decoded once, whatever the rows are.
//
//     simdgroup     `height` neighbouring rows of weights. Lane l takes their parts l, l + 32, …:
//                   of 256-weight blocks, eight lanes share one and four are under way
//     threadgroup   two simdgroups, each with rows of its own (matvec); or `split` simdgroups that
//                   have the same rows and share their parts (matvec_split), for few rows: simdgroup
//                   s takes parts 32·s + l, 32·(s + split) + l, …
//     rows          of x, at most: 1, 2, 4 or 8. Those beyond m are neither read nor written
//     T             float, half or bfloat, of x and of the product
//
// Sums are float. A lane adds its weights' products in the order of parts, by fused multiplication
// and addition; then the lanes' sums are added (simd_sum), then those of the simdgroups, first to
// last. None of it depends on `rows` or `height`, so that a row's product has the same bits whatever
// other rows come with it, as long as `split` is the same.

#include "parts.metal"

// sum + Σ w·x, weight by weight.
template <int count>
inline float dot_after(float sum, const thread float* w, const thread float* x) {
    UNROLL
    for (int i = 0; i < count; ++i) {
        sum = fma(w[i], x[i], sum);
    }
    return sum;
}

// A lane's sums of `height` rows from `row` on, sums[h · rows + r] for row r of x: parts `first`,
// first + step, …, where `step` is a multiple of 32.
template <typename Format, int rows, int height, typename T>
inline void add_parts(
    const thread Product<T>& of, uint row, uint first, uint step, thread float* sums
) {
    constexpr int size = Format::chunk;
    constexpr uint parts = Format::weights / Format::chunk;
    const int part = int(first % parts);
    const uint there = of.known && row < of.n ? of.n - row : 0;
    const device uchar* wire = of.wire + ulong(there ? row : 0) * of.row_bytes;
    for (uint block = first / parts; block * Format::weights < of.k; block += step / parts) {
        const device uchar* blocks = wire + block * Format::bytes;
        const device T* x = of.x + block * Format::weights + Format::first(part);
        if (rows == 1) {
            float values[size];
            load_part<Format>(x, values);
            UNROLL
            for (int h = 0; h < height; ++h) {
                if (uint(h) < there) {
                    float w[size];
                    Format::decode(blocks + ulong(h) * of.row_bytes, part, w);
                    sums[h] = dot_after<size>(sums[h], w, values);
                }
            }
            continue;
        }
        float w[height][size];
        UNROLL
        for (int h = 0; h < height; ++h) {
            if (uint(h) < there) {
                Format::decode(blocks + ulong(h) * of.row_bytes, part, w[h]);
            }
        }
        UNROLL
        for (int r = 0; r < rows; ++r) {
            if (uint(r) < of.m) {
                float values[size];
                load_part<Format>(x + ulong(r) * of.k, values);
                UNROLL
                for (int h = 0; h < height; ++h) {
                    if (uint(h) < there) {
                        sums[h * rows + r] = dot_after<size>(sums[h * rows + r], w[h], values);
                    }
                }
            }
        }
    }
}

// NaN where the weights are not known: it stays, whatever is added.
template <int count>
inline void start_sums(bool known, thread float* sums) {
    UNROLL
    for (int i = 0; i < count; ++i) {
        sums[i] = known ? 0.0f : NAN;
    }
}

// The product of row r of x with the row of weights, if there are such.
template <typename T>
inline void write_sum(const thread Product<T>& of, uint r, uint row, float sum) {
    if (r < of.m && row < of.n) {
        of.out[ulong(r) * of.n + row] = rounded<T>(sum);
    }
}

// threadgroup (64, 1, 1), grid (64 · ⌈n / (2 · height)⌉, 1, 1)
template <typename Format, int rows, int height, typename T>
inline void matvec(Product<T> of, uint group, uint simdgroup, uint lane) {
    const uint row = (2 * group + simdgroup) * height;
    float sums[height * rows];
    start_sums<height * rows>(of.known, sums);
    add_parts<Format, rows, height>(of, row, lane, 32, sums);
    UNROLL
    for (int h = 0; h < height; ++h) {
        UNROLL
        for (int r = 0; r < rows; ++r) {
            const float sum = simd_sum(sums[h * rows + r]);
            if (lane == 0) {
                write_sum(of, r, row + h, sum);
            }
        }
    }
}

// threadgroup (32 · split, 1, 1), grid (32 · split · ⌈n / height⌉, 1, 1); partial float
// [split · height · rows]
template <typename Format, int rows, int height, int split, typename T>
inline void matvec_split(
    Product<T> of, threadgroup float* partial, uint group, uint simdgroup, uint lane
) {
    constexpr uint count = height * rows;
    static_assert(count <= 32 * split, "a thread for each sum");
    float sums[count];
    start_sums<count>(of.known, sums);
    add_parts<Format, rows, height>(of, group * height, 32 * simdgroup + lane, 32 * split, sums);
    UNROLL
    for (uint i = 0; i < count; ++i) {
        const float sum = simd_sum(sums[i]);
        if (lane == 0) {
            partial[simdgroup * count + i] = sum;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint own = 32 * simdgroup + lane;
    if (own < count) {
        float sum = partial[own];
        UNROLL
        for (int s = 1; s < split; ++s) {
            sum += partial[s * count + own];
        }
        write_sum(of, own % rows, group * height + own / rows, sum);
    }
}
