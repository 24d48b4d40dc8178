#if canImport(MLX)
    import MLX
    import MLXQuantFormats

    /// Products with weights in ggml's blocks, on a GPU, through `MLXFast.metalKernel`.
    ///
    /// The kernels are those of `kernels/` in mlxquant, word for word. One is compiled when it is first
    /// used, for each type of result and number of rows that differ (``Launch``).
    enum PackedKernels {
        /// x · wᵀ with packed weights.
        ///
        /// - Parameters:
        ///   - x: [m, k] of float32, float16 or bfloat16.
        ///   - wire: uint8 [n, bytes], rows of k weights.
        ///   - format: of the weights.
        /// - Returns: [m, n] of x's type; sums are float32.
        /// - Throws: `FormatError` for shapes that do not fit, another type or no kernel.
        static func product(
            _ x: MLXArray,
            _ wire: MLXArray,
            _ format: WeightFormat
        ) throws(FormatError) -> MLXArray {
            let type = try floatType(of: x)
            let launch = try Launch.product(format, x: x.shape, wire: wire.shape, type)
            return try run(launch, [x, wire])
        }

        /// x · wᵀ with a matrix for each row of x, as a mixture of experts has it.
        ///
        /// - Parameters:
        ///   - x: [p, k] of float32, float16 or bfloat16.
        ///   - ids: integers [p], the number of a matrix each; NaN comes out where there is none.
        ///   - wire: uint8 [e, n, bytes], e matrices of rows of k weights.
        ///   - format: of the weights.
        ///   - inOrder: whether ids ascend; if not, they are brought in order where that pays.
        /// - Returns: [p, n] of x's type; sums are float32.
        /// - Throws: `FormatError` as of ``product(_:_:_:)``.
        static func gather(
            _ x: MLXArray,
            _ ids: MLXArray,
            _ wire: MLXArray,
            _ format: WeightFormat,
            inOrder: Bool = false
        ) throws(FormatError) -> MLXArray {
            guard ids.shape == [x.shape[0]] else {
                let reason = "one for each row of x \(x.shape) needed"
                throw FormatError(.request, field: "ids \(ids.shape)", reason: reason)
            }
            let type = try floatType(of: x)
            let launch = try Launch.gather(format, x: x.shape, wire: wire.shape, type)
            if inOrder || !Launch.gathersInTiles(pairs: x.shape[0], matrices: wire.shape[0]) {
                return try run(launch, [x, inDeviceMemory(ids), wire])
            }
            let order = argSort(ids)
            let sorted = try run(launch, [x[order], inDeviceMemory(ids[order]), wire])
            return sorted[argSort(order)]
        }

        /// Decodes of uint8 [n, bytes] the rows of ids, integers [m] → [m, k]; NaN where there is no such
        /// row.
        static func dequantizeRows(
            _ wire: MLXArray,
            _ ids: MLXArray,
            _ format: WeightFormat,
            _ type: FloatType
        ) throws(FormatError) -> MLXArray {
            let launch = try Launch.dequantizeRows(format, wire: wire.shape, count: ids.size, type)
            return try run(launch, [wire, inDeviceMemory(ids)])
        }

        /// The project's name of an array's type.
        ///
        /// - Throws: `FormatError` if kernels compute in no such type.
        static func floatType(of array: MLXArray) throws(FormatError) -> FloatType {
            guard let found = FloatType.allCases.first(where: { $0.dtype == array.dtype }) else {
                throw FormatError(
                    .request,
                    field: "x of \(array.dtype)",
                    reason: "convert it to float16, bfloat16 or float32"
                )
            }
            return found
        }

        /// The result of a launch on its kernel's inputs, zeros where it sums up nothing.
        static func run(
            _ launch: Launch,
            _ inputs: [MLXArray]
        ) throws(FormatError) -> MLXArray {
            guard inputs.allSatisfy({ $0.size > 0 }), !launch.shape.contains(0) else {
                return MLXArray.zeros(launch.shape, dtype: launch.type.dtype)
            }
            let out = try kernels.kernel(of: launch)(
                inputs,
                grid: launch.grid.tuple,
                threadGroup: launch.threadgroup.tuple,
                outputShapes: [launch.shape],
                outputDTypes: [launch.type.dtype]
            )
            guard let first = out.first else {
                // MLX has reported why, to whoever asked for its errors.
                let reason = "MLX cannot start it"
                throw FormatError(
                    .request,
                    field: "\(launch.kernel.name) of \(launch.format)",
                    reason: reason
                )
            }
            return first
        }

        /// uint32 [m], filled up so that it comes in device memory.
        static func inDeviceMemory(_ ids: MLXArray) -> MLXArray {
            let ids = ids.asType(.uint32)
            let missing = Launch.least - ids.size
            guard missing > 0 else { return ids }
            return concatenated([ids, MLXArray.zeros([missing], dtype: .uint32)], axis: 0)
        }

        private static let kernels = KernelCache()
    }

    extension FloatType {
        /// MLX's.
        var dtype: DType {
            switch self {
            case .float32: .float32
            case .float16: .float16
            case .bfloat16: .bfloat16
            }
        }
    }
#endif
