// Weights from blocks: all of them, or those of some rows. For any format of blocks.metal.
//
//     thread        one part of one block: at.x names the part, at.y the block
//     threadgroup   any; there are no barriers and nothing is shared
//     T             float, half or bfloat; rounded to nearest, ties to even
//
// A thread writes chunk / run runs of `run` weights; neighbours in x write neighbouring runs.

// A block's part as T, at `out`, where the block's first weight belongs.
template <typename Format, typename T>
inline void write_part(const device uchar* block, int part, device T* out) {
    float w[Format::chunk];
    Format::decode(block, part, w);
    device T* begin = out + Format::first(part);
    UNROLL
    for (int r = 0; r < Format::chunk / Format::run; ++r) {
        UNROLL
        for (int i = 0; i < Format::run; ++i) {
            begin[r * Format::stride + i] = rounded<T>(w[r * Format::run + i]);
        }
    }
}

// grid (parts of a block, blocks, 1): uint8 [n, bytes], in whole blocks → T [n, k].
template <typename Format, typename T>
inline void dequantize(const device uchar* wire, device T* out, uint3 at) {
    const ulong block = at.y;
    write_part<Format>(wire + block * Format::bytes, int(at.x), out + block * Format::weights);
}

// grid (parts of a block, blocks of a row, rows asked for): row `id` of uint8 [rows, row_bytes] →
// row at.z of T [ids, k]. NaN where there is no such row.
template <typename Format, typename T>
inline void dequantize_row(
    const device uchar* wire, int rows, int row_bytes, uint id, device T* out, uint3 at
) {
    const ulong blocks = uint(row_bytes / Format::bytes);
    device T* to = out + (at.z * blocks + at.y) * Format::weights;
    if (id < uint(rows)) {
        const device uchar* row = wire + ulong(id) * uint(row_bytes);
        write_part<Format>(row + ulong(at.y) * Format::bytes, int(at.x), to);
        return;
    }
    UNROLL
    for (int r = 0; r < Format::chunk / Format::run; ++r) {
        UNROLL
        for (int i = 0; i < Format::run; ++i) {
            to[Format::first(int(at.x)) + r * Format::stride + i] = rounded<T>(NAN);
        }
    }
}
