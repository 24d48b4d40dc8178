// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import MLX

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
    public private(set) var weight: MLXArray
    public private(set) var bias: MLXArray?

    open var shape: (Int, Int) { (weight.dim(0), weight.dim(1)) }

    public init(weight: MLXArray, bias: MLXArray? = nil) {
        self.weight = weight
        self.bias = bias
    }

    open override var named: [String: MLXArray] {
        var found = ["weight": weight]
        found["bias"] = bias
        return found
    }

    open override func set(_ name: String, _ array: MLXArray) {
        if name == "weight" { weight = array } else { bias = array }
    }

    open func callAsFunction(_ x: MLXArray) -> MLXArray {
        preconditionFailure("products of floats are not what is tested here")
    }

    public func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module {
        QuantizedLayer(shape, bias, groupSize, bits, mode)
    }
}

/// As MLX's.
open class Embedding: Module, UnaryLayer, Quantizable {
    public private(set) var weight: MLXArray

    open var shape: (Int, Int) { (weight.dim(0), weight.dim(1)) }

    public init(weight: MLXArray) {
        self.weight = weight
    }

    open override var named: [String: MLXArray] { ["weight": weight] }

    open override func set(_ name: String, _ array: MLXArray) {
        weight = array
    }

    open func callAsFunction(_ x: MLXArray) -> MLXArray { weight[x] }

    open func asLinear(_ x: MLXArray) -> MLXArray {
        preconditionFailure("products of floats are not what is tested here")
    }

    public func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module {
        QuantizedLayer(shape, nil, groupSize, bits, mode)
    }
}

/// As MLX's norms: a parameter.
open class RMSNorm: Module {
    public private(set) var weight: MLXArray

    public init(dimensions: Int) {
        weight = MLXArray.zeros([dimensions], dtype: .float32)
    }

    open override var named: [String: MLXArray] { ["weight": weight] }

    open override func set(_ name: String, _ array: MLXArray) {
        weight = array
    }
}

/// Stands for MLX's QuantizedLinear and QuantizedEmbedding: the shapes of their arrays.
public final class QuantizedLayer: Module, Quantized {
    public let groupSize: Int
    public let bits: Int
    public let mode: QuantizationMode
    public private(set) var parameters: [String: MLXArray]

    init(
        _ shape: (Int, Int),
        _ bias: MLXArray?,
        _ groupSize: Int,
        _ bits: Int,
        _ mode: QuantizationMode
    ) {
        (self.groupSize, self.bits, self.mode) = (groupSize, bits, mode)
        let groups = [shape.0, shape.1 / groupSize]
        let scales: DType = mode == .affine ? .float16 : .uint8
        parameters = [
            "weight": .zeros([shape.0, shape.1 * bits / 32], dtype: .uint32),
            "scales": .zeros(groups, dtype: scales),
        ]
        if mode == .affine { parameters["biases"] = .zeros(groups, dtype: scales) }
        parameters["bias"] = bias
    }

    public override var named: [String: MLXArray] { parameters }

    public override func set(_ name: String, _ array: MLXArray) {
        parameters[name] = array
    }
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

/// As MLX's.
public func quantize(
    model: Module,
    filter: (String, Module) -> (groupSize: Int, bits: Int, mode: QuantizationMode)?,
    apply: (Module, Int, Int, QuantizationMode) -> Module? = quantizeSingle(
        layer:
        groupSize:
        bits:
        mode:
    )
) {
    for (path, module) in model.leafModules().flattened() {
        if let (groupSize, bits, mode) = filter(path, module),
            let quantized = apply(module, groupSize, bits, mode)
        {
            model.layers[path] = quantized
        }
    }
}
