#if canImport(MLX)
    import MLX
    import MLXNN
    import MLXQuantFormats

    /// A matrix for each expert: what mlx-swift-lm's `SwitchLinear` is to the layers that call it.
    ///
    /// A property of this type takes both, ``PackedSwitchLinear`` and mlx-swift-lm's own:
    ///
    /// ```swift
    /// extension SwitchLinear: @retroactive SwitchLayer {}
    ///
    /// @ModuleInfo(key: "up_proj") var up: any SwitchLayer
    /// ```
    public protocol SwitchLayer: Module {
        /// x [..., n, columns] times the matrices of experts `indices` [...] → [..., n, rows].
        ///
        /// - Parameters:
        ///   - x: rows; its leading axes and `indices` are broadcast against each other.
        ///   - indices: integers, the number of an expert each.
        ///   - sortedIndices: whether `indices` ascend.
        /// - Returns: the products.
        func callAsFunction(
            _ x: MLXArray,
            _ indices: MLXArray,
            sortedIndices: Bool
        ) -> MLXArray
    }

    /// mlx-swift-lm's `SwitchLinear` whose weights are ggml's blocks, multiplied as they are.
    ///
    ///     weight   uint8 [experts, rows, bytes]   a row's blocks one after the other
    ///     bias     [experts, rows]
    ///
    /// It cannot be a subclass of `SwitchLinear`, which mlx-swift-lm does not open to others: so a
    /// property declared as `SwitchLinear` does not take it, and one declared as `any` ``SwitchLayer``
    /// does.
    open class PackedSwitchLinear: Module, SwitchLayer {
        /// The matrices' bytes, uint8 [experts, rows, bytes].
        public let weight: MLXArray
        /// What is added, [experts, rows].
        public let bias: MLXArray?
        /// How a block is decoded.
        public let format: WeightFormat

        /// A layer of blocks.
        ///
        /// - Parameters:
        ///   - weight: uint8 [experts, rows, bytes], whole blocks.
        ///   - format: of the blocks; it has a kernel.
        ///   - bias: [experts, rows], or nil.
        /// - Throws: `FormatError` if the format has no kernel, or a shape is another.
        public init(
            weight: MLXArray,
            format: WeightFormat,
            bias: MLXArray? = nil
        ) throws(FormatError) {
            try checkPacked(weight, format, experts: true)
            if let bias, bias.shape != Array(weight.shape.dropLast()) {
                throw FormatError(
                    .request,
                    field: "bias \(bias.shape)",
                    reason: "[experts, rows] needed: \(weight.shape.dropLast())"
                )
            }
            self.weight = weight
            self.bias = bias
            self.format = format
            super.init()
            freeze()
        }

        /// Experts, rows and columns in weights.
        open var shape: (Int, Int, Int) {
            let columns = weight.dim(2) / format.blockBytes * format.blockSize
            return (weight.dim(0), weight.dim(1), columns)
        }

        /// x [..., n, columns] times the matrices of experts `indices` [...] → [..., n, rows], of x's
        /// type; of an integer type, float32. NaN for an expert that there is none of.
        ///
        /// - Parameters:
        ///   - x: rows; its leading axes and `indices` are broadcast against each other.
        ///   - indices: integers, the number of an expert each.
        ///   - sortedIndices: whether `indices` ascend, which saves bringing them in order; the result is
        ///     the same.
        /// - Returns: the products.
        open func callAsFunction(
            _ x: MLXArray,
            _ indices: MLXArray,
            sortedIndices: Bool = false
        ) -> MLXArray {
            let (experts, outputs, _) = shape
            let x = x.dtype.isFloatingPoint ? x : x.asType(.float32)
            let (n, columns, own) = (x.dim(-2), x.dim(-1), Array(x.shape.dropLast(2)))
            let leading = broadcastShape(own, indices.shape)
            let spread = own == leading ? x : broadcast(x, to: leading + [n, columns])
            let rows = spread.reshaped([leading.reduce(n, *), columns])
            let isBroadcast = indices.shape != leading
            let chosen = (isBroadcast ? broadcast(indices, to: leading) : indices).flattened()
            let products = orStop {
                () throws(FormatError) in
                try PackedKernels.gather(
                    rows,
                    n > 1 ? repeated(chosen, count: n, axis: 0) : chosen,
                    weight,
                    format,
                    inOrder: sortedIndices && !isBroadcast
                )
            }
            let result = products.reshaped(leading + [n, outputs])
            guard let bias else { return result }
            // NaN stays NaN whatever is added; nothing behind the last bias is read
            let last = MLXArray([UInt32(max(1, experts) - 1)], [])
            let added = bias[minimum(chosen.asType(.uint32), last)].reshaped(leading + [outputs])
            return result + expandedDimensions(added, axis: -2)
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

    /// The shape that arrays of two shapes have together.
    private func broadcastShape(_ first: [Int], _ second: [Int]) -> [Int] {
        let count = max(first.count, second.count)
        let ones = { (shape: [Int]) in Array(repeating: 1, count: count - shape.count) + shape }
        return zip(ones(first), ones(second)).map { one, other in
            precondition(one == other || one == 1 || other == 1, "x \(first), indices \(second)")
            return one == 1 ? other : one
        }
    }
#endif
