#if canImport(MLX)
    import MLX
    import MLXQuantFormats

    extension MLXArray {
        /// An array whose bytes are a mapped file's: nothing is read until it is used, and nothing is
        /// copied.
        ///
        /// The bytes must not be written to. MLX writes a result over an operand that nobody else
        /// holds; so hold such an array until what is computed from it is evaluated.
        /// ``MLXModelWeights`` does.
        ///
        /// - Parameters:
        ///   - region: of the file; it stays mapped as long as the array lives.
        ///   - shape: of the array.
        ///   - type: of its elements.
        /// - Returns: the array.
        /// - Throws: `FormatError` if MLX has no such type, the region holds another number of
        ///   elements, or a dimension is beyond 2³¹ - 1, MLX's limit.
        public static func mapped(
            _ region: FileRegion,
            shape: [Int],
            type: ElementType
        ) throws(FormatError) -> MLXArray {
            func fail(_ reason: String) -> FormatError {
                let range = "bytes \(region.range.lowerBound) to \(region.range.upperBound)"
                return FormatError(.request, file: region.file.path, field: range, reason: reason)
            }
            guard let dtype = DType(type) else {
                throw fail("\(type.rawValue) is no type that MLX has")
            }
            guard shape.allSatisfy({ 0...Int(Int32.max) ~= $0 }) else {
                throw fail("\(shape): MLX's arrays have dimensions up to \(Int32.max)")
            }
            let bits: Int? = shape.reduce(type.bits) { product, length in
                let next = product?.multipliedReportingOverflow(by: length)
                return next.flatMap { $0.overflow ? nil : $0.partialValue }
            }
            guard bits == region.count * 8 else {
                throw fail("\(region.count) bytes, which are not \(type.rawValue) \(shape)")
            }
            guard let bytes = MappedBytes(region) else {
                return MLXArray.zeros(shape, dtype: dtype)
            }
            let file = bytes.file
            // Held by the array's finalizer, which MLX calls when the last use of the bytes is over.
            let release = { withExtendedLifetime(file) {} }
            let itemSize = type.bits / 8
            if bytes.isWhole || bytes.skip % itemSize != 0 || bytes.window > Int32.max {
                // Where the start is no page, MLX copies.
                let start = bytes.start + bytes.skip
                return MLXArray(rawPointer: start, shape, dtype: dtype, finalizer: release)
            }
            let window = MLXArray(
                rawPointer: bytes.start,
                [bytes.window],
                dtype: .uint8,
                finalizer: release
            )
            let array = window[bytes.skip..<(bytes.skip + bytes.count)]
            return (dtype == .uint8 ? array : array.view(dtype: dtype)).reshaped(shape)
        }
    }

    extension DType {
        /// MLX's type of a safetensors file's; nil where MLX has none.
        init?(_ type: ElementType) {
            switch type {
            case .bool: self = .bool
            case .u8, .f8e4m3, .f8e8m0: self = .uint8
            case .i8: self = .int8
            case .u16: self = .uint16
            case .i16: self = .int16
            case .u32: self = .uint32
            case .i32: self = .int32
            case .u64: self = .uint64
            case .i64: self = .int64
            case .f16: self = .float16
            case .bf16: self = .bfloat16
            case .f32: self = .float32
            case .c64: self = .complex64
            case .f64: self = .float64
            case .f4, .f6e2m3, .f6e3m2, .f8e5m2, .f8e4m3fnuz, .f8e5m2fnuz: return nil
            }
        }
    }
#endif
