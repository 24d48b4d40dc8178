#if canImport(MLX)
    import MLX
    import MLXQuantFormats

    extension PackedKernels {
        /// Has this GPU decode and multiply blocks whose weights are known, and compares: before a
        /// format's kernels are used for the first time, so that none gives a wrong number.
        ///
        /// The blocks are any bytes; where the decoder of ``MLXQuantFormats`` finds NaN or infinity in
        /// a row, that row is left out. Rows of x with a single 1 pick weights out: their products are
        /// the weights, to the bit.
        ///
        /// - Parameter format: of blocks.
        /// - Throws: `FormatError` if a kernel does not compile, or gives another number; it says
        ///   what to do instead.
        static func check(_ format: WeightFormat) throws(FormatError) {
            let (rows, blocks) = (24, max(2, 256 / format.blockSize))
            let columns = blocks * format.blockSize
            let wire = someBytes(rows * blocks * format.blockBytes)
            let weights = try known(format, wire, blocks: rows * blocks)
            let isFinite = (0..<rows).map { row in
                weights[(row * columns)..<((row + 1) * columns)].allSatisfy(\.isFinite)
            }
            let packed = MLXArray(wire, [rows, blocks * format.blockBytes])
            let decoded = try answer(format, "dequantize") {
                try dequantize(packed, format, .float32)
            }
            for row in 0..<rows where isFinite[row] {
                let range = (row * columns)..<((row + 1) * columns)
                guard decoded[range] == weights[range] else {
                    throw wrong(format, "dequantize", "row \(row) of known blocks")
                }
            }
            // one row is matvec's, three are matvec_rows', twelve matmul's
            for count in [1, 3, 12] {
                let picked = (0..<count).map { ($0 * 37 + count) % columns }
                var x = [Float](repeating: 0, count: count * columns)
                for (row, column) in picked.enumerated() {
                    x[row * columns + column] = 1
                }
                let products = try answer(format, "product") {
                    try product(MLXArray(x, [count, columns]), packed, format)
                }
                for (index, column) in picked.enumerated() {
                    for row in 0..<rows where isFinite[row] {
                        guard products[index * rows + row] == weights[row * columns + column] else {
                            throw wrong(
                                format,
                                "product",
                                "\(count) rows of x, weight [\(row), \(column)]"
                            )
                        }
                    }
                }
            }
        }

        /// What MLXQuantFormats decodes.
        private static func known(
            _ format: WeightFormat,
            _ wire: [UInt8],
            blocks: Int
        ) throws(FormatError) -> [Float] {
            let found = wire.withUnsafeBytes { bytes in
                Result { () throws(FormatError) in
                    let out = UnsafeMutableBufferPointer<Float>.allocate(
                        capacity: blocks * format.blockSize
                    )
                    defer { out.deallocate() }
                    try format.decode([bytes], blocks: blocks, into: out)
                    return Array(out)
                }
            }
            return try found.get()
        }

        /// A kernel's result as numbers; MLX's own errors as ours.
        private static func answer(
            _ format: WeightFormat,
            _ kernel: String,
            _ body: () throws -> MLXArray
        ) throws(FormatError) -> [Float] {
            do {
                // MLX reports what is wrong on the way, and reads what was never computed all the same:
                // nothing is read before it is known to be there.
                let array = try withError { try body() }
                try checkedEval(array)
                return array.asArray(Float.self)
            } catch let error as FormatError {
                throw error
            } catch {
                throw wrong(format, kernel, "\(error)")
            }
        }

        private static func wrong(
            _ format: WeightFormat,
            _ kernel: String,
            _ what: String
        ) -> FormatError {
            FormatError(
                .request,
                field: "\(kernel) of \(format.name)",
                reason:
                    "fails its check on this GPU (\(what)): run the model with MLXQuantRuntime, or "
                    + "make one of MLX's formats of it, `mlxquant import --requantize affine4-g64`"
            )
        }

        /// Bytes that look like any others, the same ones every time (SplitMix64).
        private static func someBytes(_ count: Int) -> [UInt8] {
            var state: UInt64 = 7
            return (0..<count).map { _ in
                state &+= 0x9E37_79B9_7F4A_7C15
                var z = state
                z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
                z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
                return UInt8(truncatingIfNeeded: (z ^ (z >> 31)) >> 24)
            }
        }
    }
#endif
