// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import MLX

/// As MLX's.
public typealias ModuleParameters = NestedDictionary<String, MLXArray>
/// As MLX's.
public typealias ModuleChildren = NestedDictionary<String, Module>

/// As MLX's.
public protocol UnaryLayer: Module {
    func callAsFunction(_ x: MLXArray) -> MLXArray
}

/// As MLX's.
public protocol Quantizable {
    func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module
}

/// As MLX's.
public protocol Quantized: Module {
    var groupSize: Int { get }
    var bits: Int { get }
    var mode: QuantizationMode { get }
}

/// As MLX's.
open class Linear: Module, UnaryLayer, Quantizable {
    public let weight: MLXArray
    public let bias: MLXArray?

    open var shape: (Int, Int) { (weight.dim(0), weight.dim(1)) }

    public init(weight: MLXArray, bias: MLXArray? = nil) {
        self.weight = weight
        self.bias = bias
    }

    open func callAsFunction(_ x: MLXArray) -> MLXArray {
        preconditionFailure("products of floats are not what is tested here")
    }

    public func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module {
        QuantizedLinear(self, groupSize: groupSize, bits: bits, mode: mode)
    }
}

/// As MLX's: the shapes of its arrays.
open class QuantizedLinear: Linear, Quantized {
    public let groupSize: Int
    public let bits: Int
    public let mode: QuantizationMode
    public let scales: MLXArray
    public let biases: MLXArray?

    public init(_ other: Linear, groupSize: Int, bits: Int, mode: QuantizationMode) {
        (self.groupSize, self.bits, self.mode) = (groupSize, bits, mode)
        let (packed, scales, biases) = quantized(
            other.weight,
            groupSize: groupSize,
            bits: bits,
            mode: mode
        )
        (self.scales, self.biases) = (scales, biases)
        super.init(weight: packed, bias: other.bias)
    }
}

/// As MLX's.
open class Embedding: Module, UnaryLayer, Quantizable {
    public let weight: MLXArray

    open var shape: (Int, Int) { (weight.dim(0), weight.dim(1)) }

    public init(weight: MLXArray) {
        self.weight = weight
    }

    open func callAsFunction(_ x: MLXArray) -> MLXArray { weight[x] }

    open func asLinear(_ x: MLXArray) -> MLXArray {
        preconditionFailure("products of floats are not what is tested here")
    }

    public func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module {
        QuantizedEmbedding(weight: weight, groupSize: groupSize, bits: bits, mode: mode)
    }
}

/// As MLX's: the shapes of its arrays.
open class QuantizedEmbedding: Embedding, Quantized {
    public let groupSize: Int
    public let bits: Int
    public let mode: QuantizationMode
    public let scales: MLXArray
    public let biases: MLXArray?

    public init(weight: MLXArray, groupSize: Int, bits: Int, mode: QuantizationMode) {
        (self.groupSize, self.bits, self.mode) = (groupSize, bits, mode)
        let (packed, scales, biases) = quantized(
            weight,
            groupSize: groupSize,
            bits: bits,
            mode: mode
        )
        (self.scales, self.biases) = (scales, biases)
        super.init(weight: packed)
    }
}

/// As MLX's norms: a parameter.
open class RMSNorm: Module {
    public let weight: MLXArray

    public init(dimensions: Int) {
        weight = MLXArray.zeros([dimensions], dtype: .float32)
    }
}

/// As MLX's, along the last axis: zeros of the right shapes. MLX stops a program that asks for other
/// widths than it has.
func quantized(
    _ w: MLXArray,
    groupSize: Int = 64,
    bits: Int = 4,
    mode: QuantizationMode = .affine
) -> (wq: MLXArray, scales: MLXArray, biases: MLXArray?) {
    precondition([2, 3, 4, 5, 6, 8].contains(bits), "[quantize] \(bits) bits")
    let rows = w.shape.dropLast()
    let columns = w.dim(-1)
    let scales: DType = mode == .affine ? .float16 : .uint8
    let groups = rows + [columns / groupSize]
    return (
        .zeros(rows + [columns * bits / 32], dtype: .uint32),
        .zeros(groups, dtype: scales),
        mode == .affine ? .zeros(groups, dtype: scales) : nil
    )
}

/// As MLX's.
public func quantizeSingle(
    layer: Module,
    groupSize: Int = 64,
    bits: Int = 4,
    mode: QuantizationMode = .affine
) -> Quantized? {
    layer is Quantized
        ? nil
        : (layer as? Quantizable)?.toQuantized(groupSize: groupSize, bits: bits, mode: mode)
            as? Quantized
}
