// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
// What MLXQuantMLX uses of mlx-swift, with the signatures that mlx-swift has (0.31), on a processor and
// for tests: arrays are bytes, nothing is lazy, and a kernel is run by what a test says it does.

/// Element types, as MLX's.
public enum DType: Hashable, Sendable, CaseIterable {
    case bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64
    case float16, float32, bfloat16, complex64, float64

    /// Bytes of an element.
    public var size: Int {
        switch self {
        case .bool, .uint8, .int8: 1
        case .uint16, .int16, .float16, .bfloat16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .complex64, .float64: 8
        }
    }

    /// As MLX's.
    public var isFloatingPoint: Bool {
        switch self {
        case .float16, .float32, .bfloat16, .complex64, .float64: true
        default: false
        }
    }
}

/// As MLX's.
public enum DeviceType: String, Sendable {
    case cpu, gpu
}

/// As MLX's.
public final class Device: Sendable, CustomStringConvertible {
    public let deviceType: DeviceType?

    init(_ type: DeviceType) {
        deviceType = type
    }

    public var description: String { "Device(\(deviceType?.rawValue ?? "unknown"), 0)" }

    /// As MLX's; a GPU, but for tests within `withDefault`.
    public static func defaultDevice() -> Device { current }

    /// For tests.
    public static func withDefault<R>(_ type: DeviceType, _ body: () throws -> R) rethrows -> R {
        try $current.withValue(Device(type), operation: body)
    }

    @TaskLocal private static var current = Device(.gpu)
}

/// As MLX's, without streams.
public struct StreamOrDevice: Sendable, Equatable {
    /// The only one.
    public static let `default` = StreamOrDevice()
}

/// Types whose values an array can be made of.
public protocol HasDType: ScalarOrArray {
    /// Of the array.
    static var dtype: DType { get }
}

/// What a kernel takes.
public protocol ScalarOrArray {
    /// As an array.
    func asMLXArray(dtype: DType?) -> MLXArray
}

extension HasDType {
    /// A scalar.
    public func asMLXArray(dtype: DType?) -> MLXArray {
        MLXArray([self], [])
    }
}

extension Float32: HasDType {
    public static var dtype: DType { .float32 }
}

extension UInt8: HasDType {
    public static var dtype: DType { .uint8 }
}

extension UInt32: HasDType {
    public static var dtype: DType { .uint32 }
}

extension Int32: HasDType {
    public static var dtype: DType { .int32 }
}

/// Bytes that arrays share, and what is to be done when the last one is gone.
public final class Storage {
    /// The first byte.
    public let base: UnsafeMutableRawPointer
    private let finalizer: () -> Void

    init(_ base: UnsafeMutableRawPointer, _ finalizer: @escaping () -> Void) {
        self.base = base
        self.finalizer = finalizer
    }

    deinit {
        finalizer()
    }
}

/// Elements in a row, that may be a part of other arrays' bytes.
public final class MLXArray {
    /// As MLX's.
    public private(set) var shape: [Int]
    /// As MLX's.
    public private(set) var dtype: DType
    /// For tests: the bytes, and where in them the array begins.
    public private(set) var storage: Storage
    /// For tests.
    public private(set) var offset: Int
    /// For tests: why it cannot be computed; as of MLX, nothing is said before it is evaluated.
    var failure: String?

    init(_ storage: Storage, _ offset: Int, _ shape: [Int], _ dtype: DType) {
        (self.storage, self.offset, self.shape, self.dtype) = (storage, offset, shape, dtype)
    }

    /// As MLX's; here the bytes are never copied.
    public convenience init(
        rawPointer: UnsafeMutableRawPointer,
        _ shape: (some Collection<Int>)? = [Int]?.none,
        dtype: DType,
        finalizer: @escaping () -> Void
    ) {
        let storage = Storage(rawPointer, finalizer)
        self.init(storage, 0, shape.map { Array($0) } ?? [], dtype)
    }

    /// As MLX's.
    public convenience init<T: HasDType>(
        _ value: [T],
        _ shape: (some Collection<Int>)? = [Int]?.none
    ) {
        let bytes = value.count * MemoryLayout<T>.stride
        let base = UnsafeMutableRawPointer.allocate(byteCount: max(1, bytes), alignment: 64)
        value.withUnsafeBytes {
            base.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(base), byteCount: bytes)
        }
        let owned = UncheckedPointer(base)
        let storage = Storage(base) { owned.pointer.deallocate() }
        self.init(storage, 0, shape.map { Array($0) } ?? [value.count], T.dtype)
    }

    /// As MLX's: this becomes the other.
    public func _updateInternal(_ other: MLXArray) {
        (storage, offset, shape, dtype) = (other.storage, other.offset, other.shape, other.dtype)
    }

    /// For tests: the first byte.
    public var base: UnsafeMutableRawPointer { storage.base + offset }
    /// As MLX's.
    public var size: Int { shape.reduce(1, *) }
    /// As MLX's.
    public var ndim: Int { shape.count }
    /// As MLX's.
    public func dim(_ dim: Int) -> Int { shape[dim < 0 ? dim + shape.count : dim] }

    /// As MLX's.
    public static func zeros(
        _ shape: some Collection<Int>,
        dtype: DType,
        stream: StreamOrDevice = .default
    ) -> MLXArray {
        let wanted = Array(shape)
        let bytes = [UInt8](repeating: 0, count: wanted.reduce(1, *) * dtype.size)
        return MLXArray(MLXArray(bytes).storage, 0, wanted, dtype)
    }

    /// As MLX's.
    public func reshaped(
        _ newShape: some Collection<Int>,
        stream: StreamOrDevice = .default
    ) -> MLXArray {
        let wanted = Array(newShape)
        precondition(wanted.reduce(1, *) == size, "\(shape) is not \(wanted)")
        return MLXArray(storage, offset, wanted, dtype)
    }

    /// As MLX's.
    public func flattened(
        start: Int = 0,
        end: Int = -1,
        stream: StreamOrDevice = .default
    ) -> MLXArray {
        precondition(start == 0 && end == -1)
        return reshaped([size])
    }

    /// As MLX's: the last dimension counts other elements.
    public func view(dtype: DType, stream: StreamOrDevice = .default) -> MLXArray {
        let bytes = (shape.last ?? 1) * self.dtype.size
        precondition(bytes % dtype.size == 0 && offset % dtype.size == 0)
        return MLXArray(storage, offset, shape.dropLast() + [bytes / dtype.size], dtype)
    }

    /// As MLX's, between the types that tests have values of.
    public func asType(_ type: DType, stream: StreamOrDevice = .default) -> MLXArray {
        guard type != dtype else { return self }
        let made =
            switch type {
            case .float32: MLXArray(doubles.map(Float.init), shape)
            case .uint32: MLXArray(doubles.map { UInt32(truncatingIfNeeded: Int($0)) }, shape)
            case .float16: words(doubles.map { Float16($0).bitPattern }, type)
            case .bfloat16: words(doubles.map { bfloat16(Float($0)) }, type)
            default: preconditionFailure("no conversion to \(type)")
            }
        made.failure = failure
        return made
    }

    private func words(_ bits: [UInt16], _ type: DType) -> MLXArray {
        let bytes = bits.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }
        return MLXArray(MLXArray(bytes).storage, 0, shape, type)
    }

    /// As MLX's.
    public func asArray<T: HasDType>(_ type: T.Type) -> [T] {
        precondition(failure == nil, "MLX would read memory that is not there")
        let from = asType(T.dtype)
        return (0..<size).map {
            from.base.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.stride, as: T.self)
        }
    }

    /// For tests.
    public var doubles: [Double] {
        (0..<size).map { index in
            let at = base + index * dtype.size
            switch dtype {
            case .uint8: return Double(at.load(as: UInt8.self))
            case .uint32: return Double(at.loadUnaligned(as: UInt32.self))
            case .int32: return Double(at.loadUnaligned(as: Int32.self))
            case .float16: return Double(at.loadUnaligned(as: Float16.self))
            case .bfloat16:
                return Double(Float(bitPattern: UInt32(at.loadUnaligned(as: UInt16.self)) << 16))
            case .float32: return Double(at.loadUnaligned(as: Float.self))
            default: preconditionFailure("no values of \(dtype)")
            }
        }
    }

    /// As MLX's, of shapes of which the second is broadcast to the first.
    public static func + (lhs: MLXArray, rhs: MLXArray) -> MLXArray {
        let (a, b) = (lhs.doubles, broadcast(rhs, to: lhs.shape).doubles)
        return MLXArray(zip(a, b).map { Float($0 + $1) }, lhs.shape).asType(lhs.dtype)
    }
}

/// The nearest, ties to even.
private func bfloat16(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if value.isNaN { return UInt16(bits >> 16 | 64) }
    return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
}

private struct UncheckedPointer: @unchecked Sendable {
    let pointer: UnsafeMutableRawPointer

    init(_ pointer: UnsafeMutableRawPointer) {
        self.pointer = pointer
    }
}

extension MLXArray: ScalarOrArray {
    public func asMLXArray(dtype: DType?) -> MLXArray { self }
}
