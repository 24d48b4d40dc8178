// Products of packed weights on a processor: few rows of x, with any format's Wide.
//
//     multiply    x [m, k] times matrices uint8 [e, n, row_bytes], transposed → out [m, n]
//     decode      uint8 [n, row_bytes] → float [n, k], for a product of many rows by BLAS
//
// Rows of x come in pieces, {expert, first, count}: rows `first` to `first + count` (8 at most) times
// that expert's matrix. The unit of work is a piece and some rows of weights; `share` (pool.h) gives
// units to threads, and no sum depends on which.
//
// A sum has sixteen lanes twice: weights that stand next to one another go to neighbouring lanes, 32
// weights to all of them, each with one rounding (fused). At the end lanes are added in halves. So a
// row's result is the same whatever other rows of x there are.

typedef void Share(void (*run)(void*, ulong), void* context, ulong items, int threads);

struct Piece {
    int expert, first, count;
};

struct Work {
    const device uchar* wire;
    ulong row_bytes, n, k;
    const float* x;
    const Piece* pieces;
    device void* out;
    // 0, 1, 2: float, half, bfloat
    int type;
    // rows of weights of a unit, and units of a piece
    ulong height, units;
};

// Rows of weights whose sums are kept while a slice of x, so many numbers of all rows, is at hand.
constexpr int AT_A_TIME = 16, SLICE = 4096;

ALWAYS Floats add_product(Floats sum, Floats a, Floats b) {
#pragma clang fp contract(fast)
    return sum + a * b;
}

ALWAYS float total(Floats lanes) {
    const auto eight = lanes.lo + lanes.hi;
    const auto four = eight.lo + eight.hi;
    const auto two = four.lo + four.hi;
    return two.x + two.y;
}

ALWAYS void store(device void* out, ulong at, float value, int type) {
    if (type == 0) {
        static_cast<device float*>(out)[at] = value;
    } else if (type == 1) {
        static_cast<device half*>(out)[at] = rounded<half>(value);
    } else {
        static_cast<device bfloat*>(out)[at] = rounded<bfloat>(value);
    }
}

// Blocks of one row of weights times M rows of x, added to sums [M][2].
template <typename Format, int M>
ALWAYS void add_row(const device uchar* wire, ulong blocks, const float* x, ulong k, Floats* sums) {
    constexpr int step = Wide<Format>::step;
    Floats held[M][2];
    UNROLL
    for (int i = 0; i < 2 * M; ++i) {
        held[i / 2][i % 2] = sums[i];
    }
    for (ulong b = 0; b < blocks; ++b) {
        for (int s = 0; s < Format::weights / step; ++s) {
            Floats w[step / 16];
            Wide<Format>::decode(wire + b * Format::bytes, s, w);
            const float* at = x + b * Format::weights + s * step;
            UNROLL
            for (int m = 0; m < M; ++m) {
                UNROLL
                for (int i = 0; i < step / 16; ++i) {
                    const Floats here = load_vector<Floats>(at + m * k + 16 * i);
                    held[m][i % 2] = add_product(held[m][i % 2], w[i], here);
                }
            }
        }
    }
    UNROLL
    for (int i = 0; i < 2 * M; ++i) {
        sums[i] = held[i / 2][i % 2];
    }
}

// Rows `begin` to `end` of an expert's weights times the M rows of a piece.
template <typename Format, int M>
void multiply_rows(const Work& work, Piece piece, ulong begin, ulong end) {
    const ulong blocks = work.row_bytes / Format::bytes;
    const ulong slice = M < 3 ? blocks : 1 + SLICE / M / Format::weights;
    const device uchar* wire = work.wire + work.n * work.row_bytes * piece.expert;
    const float* x = work.x + work.k * piece.first;
    for (ulong row = begin; row < end; row += AT_A_TIME) {
        const int rows = end - row < AT_A_TIME ? int(end - row) : AT_A_TIME;
        Floats sums[AT_A_TIME][M][2] = {};
        for (ulong b = 0; b < blocks; b += slice) {
            const ulong count = blocks - b < slice ? blocks - b : slice;
            for (int r = 0; r < rows; ++r) {
                const device uchar* at = wire + (row + r) * work.row_bytes + b * Format::bytes;
                add_row<Format, M>(at, count, x + b * Format::weights, work.k, sums[r][0]);
            }
        }
        for (int r = 0; r < rows; ++r) {
            for (int m = 0; m < M; ++m) {
                const float sum = total(sums[r][m][0] + sums[r][m][1]);
                store(work.out, (piece.first + m) * work.n + row + r, sum, work.type);
            }
        }
    }
}

template <typename Format>
void multiply_unit(void* context, ulong unit) {
    const Work& work = *static_cast<const Work*>(context);
    const Piece piece = work.pieces[unit / work.units];
    const ulong begin = unit % work.units * work.height;
    const ulong end = begin + work.height < work.n ? begin + work.height : work.n;
    switch (piece.count) {
        case 1: return multiply_rows<Format, 1>(work, piece, begin, end);
        case 2: return multiply_rows<Format, 2>(work, piece, begin, end);
        case 3: return multiply_rows<Format, 3>(work, piece, begin, end);
        case 4: return multiply_rows<Format, 4>(work, piece, begin, end);
        case 5: return multiply_rows<Format, 5>(work, piece, begin, end);
        case 6: return multiply_rows<Format, 6>(work, piece, begin, end);
        case 7: return multiply_rows<Format, 7>(work, piece, begin, end);
        default: return multiply_rows<Format, 8>(work, piece, begin, end);
    }
}

template <typename Format>
void decode_unit(void* context, ulong unit) {
    const Work& work = *static_cast<const Work*>(context);
    constexpr int step = Wide<Format>::step;
    const ulong begin = unit * work.height;
    const ulong end = begin + work.height < work.n ? begin + work.height : work.n;
    const device uchar* block = work.wire + begin * work.row_bytes;
    device float* to = static_cast<device float*>(work.out) + begin * work.k;
    for (ulong left = (end - begin) * (work.k / Format::weights); left; --left) {
        for (int s = 0; s < Format::weights / step; ++s, to += step) {
            Floats w[step / 16];
            Wide<Format>::decode(block, s, w);
            __builtin_memcpy((void*)to, w, sizeof(w));
        }
        block += Format::bytes;
    }
}

template <typename Format>
inline Work of_weights(const device uchar* wire, ulong n, ulong row_bytes) {
    Work work = {};
    work.wire = wire;
    work.row_bytes = row_bytes;
    work.n = n;
    work.k = row_bytes / Format::bytes * Format::weights;
    return work;
}

// By all threads; alone where there is no `share`.
inline void run(
    void (*unit)(void*, ulong), Work& work, ulong count, Share* share, int threads
) {
    if (share) {
        return share(unit, &work, count, threads);
    }
    for (ulong i = 0; i < count; ++i) {
        unit(&work, i);
    }
}

// Units of about `bytes` packed bytes, but so many that threads can share them.
inline void divide(Work& work, ulong bytes, int threads) {
    ulong height = bytes / work.row_bytes + 1;
    const ulong share = work.n / (4 * ulong(threads)) + 1;
    height = height < share ? height : share;
    work.height = (height + AT_A_TIME - 1) / AT_A_TIME * AT_A_TIME;
    work.units = (work.n + work.height - 1) / work.height;
}

inline void widen(const void* x, int type, ulong count, float* to) {
    if (type == 1) {
        for (ulong i = 0; i < count; ++i) {
            to[i] = float(static_cast<const half*>(x)[i]);
        }
    } else {
        for (ulong i = 0; i < count; ++i) {
            to[i] = as_type<float>(uint(static_cast<const ushort*>(x)[i]) << 16);
        }
    }
}

template <typename Format>
inline void multiply(
    const device uchar* wire, ulong n, ulong row_bytes, const void* x, ulong m, int type,
    const Piece* pieces, ulong count, float* widened, device void* out, Share* share, int threads
) {
    Work work = of_weights<Format>(wire, n, row_bytes);
    work.x = static_cast<const float*>(x);
    work.pieces = pieces;
    work.out = out;
    work.type = type;
    if (type != 0) {
        widen(x, type, m * work.k, widened);
        work.x = widened;
    }
    divide(work, 1 << 17, threads);
    run(multiply_unit<Format>, work, count * work.units, share, threads);
}

template <typename Format>
inline void decode(
    const device uchar* wire, ulong n, ulong row_bytes, device float* out, Share* share, int threads
) {
    Work work = of_weights<Format>(wire, n, row_bytes);
    work.out = out;
    divide(work, 1 << 17, threads);
    run(decode_unit<Format>, work, work.units, share, threads);
}
