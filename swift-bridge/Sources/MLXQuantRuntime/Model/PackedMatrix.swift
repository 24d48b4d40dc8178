import MLXQuantFormats

/// A matrix as it is stored, multiplied without being unpacked: rows are decoded as they are needed,
/// a few kilobytes at a time, or not at all where a format has a loop of its own.
struct PackedMatrix: Sendable {
    let rows: Int
    let columns: Int
    private let source: any MatrixRows
    /// Added to what is multiplied, one a row; empty for none.
    private let bias: [Float]

    /// - Throws: a format that cannot be decoded.
    init(_ weight: Weight, bias: [Float] = []) throws(FormatError) {
        rows = weight.rows
        columns = weight.columns
        self.bias = bias
        source = try matrixRows(weight)
    }

    /// out[t, r] = Σ x[t, c] · w[r, c] + bias[r], for `count` vectors of `columns` values.
    ///
    /// - Parameters:
    ///   - x: the vectors, one after the other.
    ///   - count: how many.
    ///   - out: `count · rows` values.
    ///   - parallel: who shares the work.
    func multiply(
        _ x: UnsafePointer<Float>,
        _ count: Int,
        into out: UnsafeMutablePointer<Float>,
        _ parallel: Parallel
    ) {
        let prepared = source.prepare(x, count)
        let shared = Shared(x: x, prepared: prepared, out: out)
        parallel.over(rows, cost: columns * count) { range in
            source.multiply(
                range,
                Activations(
                    x: shared.x,
                    prepared: shared.prepared,
                    count: count,
                    columns: columns
                ),
                into: shared.out,
                stride: rows
            )
            if bias.isEmpty { return }
            for vector in 0..<count {
                for row in range { shared.out[vector * rows + row] += bias[row] }
            }
        }
    }

    /// Decodes one row.
    func row(_ index: Int, into out: UnsafeMutablePointer<Float>) {
        source.decode(index..<(index + 1), into: out)
    }

    /// What threads share while `multiply` waits for them: `x` is only read, and each writes the places of
    /// its own rows in `out`.
    private struct Shared: @unchecked Sendable {
        let x: UnsafePointer<Float>
        let prepared: [Float]
        let out: UnsafeMutablePointer<Float>
    }
}

/// Vectors that a matrix is multiplied with.
struct Activations {
    let x: UnsafePointer<Float>
    /// What `MatrixRows.prepare` made of them.
    let prepared: [Float]
    /// How many vectors.
    let count: Int
    /// Values of a vector.
    let columns: Int
}

/// The rows of a matrix, in one format.
protocol MatrixRows: Sendable {
    /// What all rows need to know of the vectors, computed once.
    func prepare(_ x: UnsafePointer<Float>, _ count: Int) -> [Float]

    /// out[t · stride + r] = Σ x[t, c] · w[r, c] for each row r of `rows`.
    func multiply(
        _ rows: Range<Int>,
        _ activations: Activations,
        into out: UnsafeMutablePointer<Float>,
        stride: Int
    )

    /// Decodes rows, one after the other.
    func decode(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>)
}

extension MatrixRows {
    func prepare(_ x: UnsafePointer<Float>, _ count: Int) -> [Float] { [] }

    func multiply(
        _ rows: Range<Int>,
        _ activations: Activations,
        into out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        multiplyDecoded(rows, activations, into: out, stride: stride)
    }

    /// Decodes some rows at a time, and multiplies each with all vectors.
    func multiplyDecoded(
        _ rows: Range<Int>,
        _ activations: Activations,
        into out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        let columns = activations.columns
        let most = max(1, min(rows.count, 4096 / columns))
        withUnsafeTemporaryAllocation(of: Float.self, capacity: most * columns) { buffer in
            guard let room = buffer.baseAddress else { return }
            var first = rows.lowerBound
            while first < rows.upperBound {
                let end = min(first + most, rows.upperBound)
                decode(first..<end, into: room)
                for row in first..<end {
                    multiplyRow(room + (row - first) * columns, activations, out + row, stride)
                }
                first = end
            }
        }
    }

    private func multiplyRow(
        _ weights: UnsafePointer<Float>,
        _ activations: Activations,
        _ out: UnsafeMutablePointer<Float>,
        _ stride: Int
    ) {
        let (x, columns) = (activations.x, activations.columns)
        var vector = 0
        while vector + 4 <= activations.count {
            let sums = Kernels.dot4(weights, x + vector * columns, columns, columns)
            for index in 0..<4 { out[(vector + index) * stride] = sums[index] }
            vector += 4
        }
        while vector < activations.count {
            out[vector * stride] = Kernels.dot(weights, x + vector * columns, columns)
            vector += 1
        }
    }
}

/// Rows of any format, by its decoder.
struct DecodedRows: MatrixRows {
    private let weight: Weight

    init(_ weight: Weight) throws(FormatError) {
        guard weight.format.isDecodable else {
            throw FormatError(
                .request,
                file: weight.parts.first?.file.path ?? "",
                field: "tensor \(quoted(weight.name))",
                reason: "weights of type \(weight.format.name) cannot be multiplied"
            )
        }
        self.weight = weight
    }

    func decode(_ rows: Range<Int>, into out: UnsafeMutablePointer<Float>) {
        let room = UnsafeMutableBufferPointer(start: out, count: rows.count * weight.columns)
        // Rows are within the matrix and the format is known: nothing is left to be refused.
        do { try weight.decode(rows: rows, into: room) } catch { assertionFailure("\(error)") }
    }
}

/// The rows of a matrix: in a loop of the format's own, or else by its decoder.
///
/// - Throws: a format that cannot be decoded.
func matrixRows(_ weight: Weight) throws(FormatError) -> any MatrixRows {
    if let rows = GroupRows(weight) { return rows }
    let decoded = try DecodedRows(weight)
    switch weight.format.parts.count == 1 ? weight.format.name : "" {
    case "Q8_0": return BlockRows(weight, decoded, Q8_0Product.self)
    case "Q4_0": return BlockRows(weight, decoded, Q4_0Product.self)
    case "MXFP4": return BlockRows(weight, decoded, MXFP4Product.self)
    case "Q2_K": return BlockRows(weight, decoded, Q2_KProduct.self)
    case "Q3_K": return BlockRows(weight, decoded, Q3_KProduct.self)
    case "Q4_K": return BlockRows(weight, decoded, Q4_KProduct.self)
    case "Q5_K": return BlockRows(weight, decoded, Q5_KProduct.self)
    case "Q6_K": return BlockRows(weight, decoded, Q6_KProduct.self)
    default: return decoded
    }
}
