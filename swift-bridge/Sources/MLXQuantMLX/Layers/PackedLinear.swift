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
