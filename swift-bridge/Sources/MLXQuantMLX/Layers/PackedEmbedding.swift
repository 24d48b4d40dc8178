#if canImport(MLX)
    import MLX
    import MLXNN
    import MLXQuantFormats

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

        /// As of mlx-swift's quantized layers: blocks stay frozen.
        ///
        /// - Throws: mlx-swift's error where `strict` is asked for and a key is none of the layer's.
        open override func unfreeze(
            recursive: Bool = true,
            keys: [String]? = nil,
            strict: Bool = false
        ) throws {
            try super.unfreeze(recursive: recursive, keys: keys, strict: strict)
            freeze(recursive: false)
        }
    }
#endif
