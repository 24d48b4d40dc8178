// Products of up to eight rows of x: every weight is read and decoded once, whatever the rows are.
//
//     simdgroup     `height` neighbouring rows of weights. Lane l takes their parts l, l + 32, …:
//                   of 256-weight blocks, eight lanes share one and four are under way
//     threadgroup   two simdgroups, each with rows of its own (matvec); or, for few rows, `split`
//                   simdgroups that have the same rows and share their parts (matvec_split):
//                   simdgroup s takes parts 32·s + l, 32·(s + split) + l, …
//     rows          of x, at most: 1, 2, 4 or 8. Those beyond m are neither read nor written
//     T             float, half or bfloat, of x and of the product
//
// Sums are float, of codes times x: a group's scale is applied to its sum, and its bias to the sum
// of x, which the rows of weights share. A lane adds up a group's products in order, and its groups
// in the order of parts, by fused multiplication and addition; then the lanes' sums are added
// (simd_sum), then those of the simdgroups, first to last. None of it depends on `rows` or
// `height`: a row's product has the same bits whatever rows come with it, if `split` is the same.

#include "parts.metal"

// A part's codes, with a scale and a bias for each group.
template <typename Format>
struct Part {
    float q[Format::chunk];
    float scales[Format::chunk / Format::group], biases[Format::chunk / Format::group];

    void load(const device uchar* block, int part) thread {
        Format::codes(block, part, q, scales, biases);
    }

    // sum + Σ w·x over group g, of which `product` is Σ q·x and `of_x` Σ x
    float add_group(float sum, int g, float product, float of_x) const thread {
        sum = fma(scales[g], product, sum);
        return Format::biased ? fma(biases[g], of_x, sum) : sum;
    }
};

// Of one row of x, whose numbers for a part are at `at`: each of `height` parts of rows of weights
// adds to its sum, sums[h · step].
template <typename Format, int height, int step, typename T>
inline void add_products(const device T* at, const thread Part<Format>* w, thread float* sums) {
    float products[height], of_x = 0.0f;
    UNROLL
    for (int first = 0; first < Format::chunk; first += 8) {
        float x[8];
        load_eight(at + offset_in_part<Format>(first), x);
        UNROLL
        for (int h = 0; h < height; ++h) {
            float sum = first % Format::group ? products[h] : 0.0f;
            UNROLL
            for (int i = 0; i < 8; ++i) {
                sum = fma(w[h].q[first + i], x[i], sum);
            }
            products[h] = sum;
        }
        of_x = first % Format::group ? of_x : 0.0f;
        UNROLL
        for (int i = 0; i < 8; ++i) {
            of_x += x[i];
        }
        if ((first + 8) % Format::group == 0) {
            UNROLL
            for (int h = 0; h < height; ++h) {
                const int g = first / Format::group;
                sums[h * step] = w[h].add_group(sums[h * step], g, products[h], of_x);
            }
        }
    }
}

// The same for the only row of x, where its numbers are kept and the parts of weights come one
// after another: bit by bit the same.
template <typename Format>
struct OnlyRow {
    static constant constexpr int groups = Format::chunk / Format::group;

    float x[Format::chunk], of_x[groups];

    template <typename T>
    void load(const device T* at) thread {
        load_part<Format>(at, x);
        UNROLL
        for (int g = 0; g < groups; ++g) {
            of_x[g] = 0.0f;
            UNROLL
            for (int i = 0; i < Format::group; ++i) {
                of_x[g] += x[g * Format::group + i];
            }
        }
    }

    float product_after(float sum, const thread Part<Format>& w) const thread {
        UNROLL
        for (int g = 0; g < groups; ++g) {
            float product = 0.0f;
            UNROLL
            for (int i = g * Format::group; i < g * Format::group + Format::group; ++i) {
                product = fma(w.q[i], x[i], product);
            }
            sum = w.add_group(sum, g, product, of_x[g]);
        }
        return sum;
    }
};

// A lane's sums of `height` rows from `row` on, sums[h · rows + r] for row r of x: parts `first`,
// first + step, …, where `step` is a multiple of 32. A row that is not there stands for the last.
template <typename Format, int rows, int height, typename T>
inline void add_parts(
    const thread Product<T>& of, uint row, uint first, uint step, thread float* sums
) {
    constexpr uint parts = Format::weights / Format::chunk;
    if (!of.known || row >= of.n) {
        return;
    }
    const int part = int(first % parts);
    const uint last = of.n - 1 - row;
    const device uchar* wire = of.wire + ulong(row) * of.row_bytes;
    for (uint block = first / parts; block * Format::weights < of.k; block += step / parts) {
        const device uchar* blocks = wire + block * Format::bytes;
        const device T* x = of.x + block * Format::weights + Format::first(part);
        if (rows == 1) {
            OnlyRow<Format> only;
            only.load(x);
            UNROLL
            for (int h = 0; h < height; ++h) {
                Part<Format> w;
                w.load(blocks + ulong(uint(h) < last ? h : last) * of.row_bytes, part);
                sums[h] = only.product_after(sums[h], w);
            }
            continue;
        }
        Part<Format> w[height];
        UNROLL
        for (int h = 0; h < height; ++h) {
            w[h].load(blocks + ulong(uint(h) < last ? h : last) * of.row_bytes, part);
        }
        UNROLL
        for (int r = 0; r < rows; ++r) {
            if (uint(r) < of.m) {
                add_products<Format, height, rows>(x + ulong(r) * of.k, w, sums + r);
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
