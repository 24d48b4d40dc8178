// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
/// What an array can be indexed with.
public protocol MLXArrayIndex {}

extension Range: MLXArrayIndex where Bound == Int {}
extension MLXArray: MLXArrayIndex {}

extension MLXArray {
    /// As MLX's, along the first axis: a range shares bytes, an array of numbers copies rows.
    public subscript(
        indices: any MLXArrayIndex...,
        stream stream: StreamOrDevice = .default
    ) -> MLXArray {
        precondition(indices.count == 1)
        let row = shape.dropFirst().reduce(1, *) * dtype.size
        switch indices[0] {
        case let range as Range<Int>:
            precondition(range.upperBound <= shape[0])
            let rows = [range.count] + shape.dropFirst()
            return MLXArray(storage, offset + range.lowerBound * row, rows, dtype)
        case let rows as MLXArray:
            let picked = rows.doubles.flatMap { index in
                UnsafeRawBufferPointer(start: base + Int(index) * row, count: row).map { $0 }
            }
            return MLXArray(MLXArray(picked).storage, 0, rows.shape + shape.dropFirst(), dtype)
        default: preconditionFailure()
        }
    }
}

/// As MLX's, of one axis.
public func argSort(_ array: MLXArray, stream: StreamOrDevice = .default) -> MLXArray {
    let values = array.doubles
    let order = values.indices.sorted { (values[$0], $0) < (values[$1], $1) }
    return MLXArray(order.map { UInt32($0) }, array.shape)
}

/// As MLX's, along the first axis.
public func concatenated(
    _ arrays: some Collection<MLXArray>,
    axis: Int = 0,
    stream: StreamOrDevice = .default
) -> MLXArray {
    precondition(axis == 0)
    let bytes = arrays.flatMap { array in
        UnsafeRawBufferPointer(start: array.base, count: array.size * array.dtype.size).map { $0 }
    }
    let parts = Array(arrays)
    let shape = [parts.reduce(0) { $0 + $1.shape[0] }] + parts[0].shape.dropFirst()
    return MLXArray(MLXArray(bytes).storage, 0, shape, parts[0].dtype)
}

/// As MLX's.
public func broadcast(
    _ array: MLXArray,
    to shape: some Collection<Int>,
    stream: StreamOrDevice = .default
) -> MLXArray {
    let wanted = Array(shape)
    let old = Array(repeating: 1, count: wanted.count - array.ndim) + array.shape
    precondition(zip(old, wanted).allSatisfy { $0 == $1 || $0 == 1 }, "\(array.shape) to \(wanted)")
    let size = array.dtype.size
    let places = (0..<wanted.reduce(1, *)).map { index in
        var (index, place, step) = (index, 0, 1)
        for axis in wanted.indices.reversed() {
            place += old[axis] == 1 ? 0 : index % wanted[axis] * step
            (index, step) = (index / wanted[axis], step * old[axis])
        }
        return place
    }
    let bytes = places.flatMap { place in
        UnsafeRawBufferPointer(start: array.base + place * size, count: size).map { $0 }
    }
    return MLXArray(MLXArray(bytes).storage, 0, wanted, array.dtype)
}

/// As MLX's, along the first axis.
public func repeated(
    _ array: MLXArray,
    count: Int,
    axis: Int,
    stream: StreamOrDevice = .default
) -> MLXArray {
    precondition(axis == 0)
    return array[MLXArray((0..<array.dim(0) * count).map { UInt32($0 / count) })]
}

/// As MLX's, of numbers as they are in uint32.
public func minimum(
    _ a: some ScalarOrArray,
    _ b: some ScalarOrArray,
    stream: StreamOrDevice = .default
) -> MLXArray {
    let (a, b) = (a.asMLXArray(dtype: nil), b.asMLXArray(dtype: nil))
    precondition(a.dtype == .uint32 && b.dtype == .uint32 && b.size == 1)
    let most = b.doubles[0]
    return MLXArray(a.doubles.map { UInt32(min($0, most)) }, a.shape)
}

/// As MLX's.
public func expandedDimensions(
    _ array: MLXArray,
    axis: Int,
    stream: StreamOrDevice = .default
) -> MLXArray {
    var shape = array.shape
    shape.insert(1, at: axis < 0 ? shape.count + 1 + axis : axis)
    return array.reshaped(shape)
}
