#if canImport(MLX)
    import MLX
    import MLXNN
    import MLXQuantFormats

    /// `Linear` whose weights are ggml's blocks, multiplied as they are.
    ///
    ///     weight   uint8 [rows, bytes]   a row's blocks one after the other
    ///     bias     [rows]
    open class PackedLinear: Linear {
        /// How a block is decoded.
        public let format: WeightFormat

        /// A layer of blocks.
        ///
        /// - Parameters:
        ///   - weight: uint8 [rows, bytes], whole blocks.
        ///   - format: of the blocks; it has a kernel.
        ///   - bias: [rows], or nil.
        /// - Throws: `FormatError` if the format has no kernel, or the shape is another.
        public init(
            weight: MLXArray,
            format: WeightFormat,
            bias: MLXArray? = nil
        ) throws(FormatError) {
            try checkPacked(weight, format)
            self.format = format
            super.init(weight: weight, bias: bias)
            freeze()
        }

        /// Rows and columns in weights.
        open override var shape: (Int, Int) {
            (weight.dim(0), weight.dim(1) / format.blockBytes * format.blockSize)
        }

        /// x [..., columns] → [..., rows] of x's type; of an integer type, float32.
        open override func callAsFunction(_ x: MLXArray) -> MLXArray {
            let result = packedProduct(x, weight, format)
            return bias.map { result + $0 } ?? result
        }
    }

    /// `Embedding` whose vectors are ggml's blocks, decoded as they are looked up.
    ///
    ///     weight   uint8 [vectors, bytes]   a vector's blocks one after the other
    open class PackedEmbedding: Embedding {
        /// How a block is decoded.
        public let format: WeightFormat
        /// The vectors' element type.
        public let dtype: DType

        private let type: FloatType

        /// An embedding of blocks.
        ///
        /// - Parameters:
        ///   - weight: uint8 [vectors, bytes], whole blocks.
        ///   - format: of the blocks; it has a kernel.
        ///   - dtype: of the vectors: float16, bfloat16 or float32.
        /// - Throws: `FormatError` if the format has no kernel, the shape or `dtype` is another.
        public init(
            weight: MLXArray,
            format: WeightFormat,
            dtype: DType = .float16
        ) throws(FormatError) {
            try checkPacked(weight, format)
            guard let type = FloatType.allCases.first(where: { $0.dtype == dtype }) else {
                let reason = "choose float16, bfloat16 or float32"
                throw FormatError(.request, field: "vectors of \(dtype)", reason: reason)
            }
            self.format = format
            self.dtype = dtype
            self.type = type
            super.init(weight: weight)
            freeze()
        }

        /// Vectors and their length in weights.
        open override var shape: (Int, Int) {
            (weight.dim(0), weight.dim(1) / format.blockBytes * format.blockSize)
        }

        /// Ids [...] → vectors [..., length]; NaN for an id that there is none of.
        open override func callAsFunction(_ x: MLXArray) -> MLXArray {
            let rows = orStop {
                () throws(FormatError) in
                try PackedKernels.dequantizeRows(weight, x.flattened(), format, type)
            }
            return rows.reshaped(x.shape + [shape.1])
        }

        /// x [..., length] → scores [..., vectors], for a head that is tied to the embedding.
        open override func asLinear(_ x: MLXArray) -> MLXArray {
            packedProduct(x, weight, format)
        }
    }

    /// Refuses what is no matrix of whole blocks of a format that has a kernel.
    private func checkPacked(_ weight: MLXArray, _ format: WeightFormat) throws(FormatError) {
        guard KernelSource.formats.contains(format.name) else {
            let reason = "has no kernel; formats that have one: "
            throw FormatError(
                .request,
                field: format.name,
                reason: reason + KernelSource.formats.joined(separator: ", ")
            )
        }
        guard weight.dtype == .uint8, weight.ndim == 2, weight.dim(1) % format.blockBytes == 0
        else {
            throw FormatError(
                .request,
                field: "weight of \(format.name)",
                reason: "\(weight.dtype) \(weight.shape); uint8 [rows, bytes] of whole blocks of "
                    + "\(format.blockBytes) bytes needed"
            )
        }
    }

    /// x [..., columns] times packed rows → [..., rows].
    private func packedProduct(
        _ x: MLXArray,
        _ weight: MLXArray,
        _ format: WeightFormat
    ) -> MLXArray {
        let columns = x.shape.last ?? 1
        let x = x.dtype.isFloatingPoint ? x : x.asType(.float32)
        let flat = x.reshaped([columns == 0 ? 0 : x.size / columns, columns])
        let result = orStop {
            () throws(FormatError) in try PackedKernels.product(flat, weight, format)
        }
        return result.reshaped(Array(x.shape.dropLast()) + [weight.dim(0)])
    }

    /// A layer's result. MLX's layers do not throw: an input of the wrong shape stops the program there
    /// too, with a line that says which.
    private func orStop(_ body: () throws(FormatError) -> MLXArray) -> MLXArray {
        do throws(FormatError) {
            return try body()
        } catch {
            preconditionFailure(error.description)
        }
    }
#endif
