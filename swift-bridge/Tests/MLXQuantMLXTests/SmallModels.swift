import MLX
import MLXNN
import MLXQuantMLX

/// A model of a few layers, some of which it may have not or of another kind.
final class SmallModel: Module {
    @ModuleInfo var a: Linear
    @ModuleInfo var b: Linear
    @ModuleInfo var c: Module?
    @ModuleInfo(key: "embed_tokens") var embedding: Embedding?
    @ModuleInfo var tied: Embedding?
    @ModuleInfo var norm: RMSNorm?

    init(
        c: Module? = SmallModel.linear(16, 64, bias: true),
        isTied: Bool = false,
        norm: Bool = true
    ) {
        _a.wrappedValue = Self.linear(64, 64)
        _b.wrappedValue = Self.linear(64, 64)
        _c.wrappedValue = c
        let table = Embedding(weight: .zeros([8, 64], dtype: .float16))
        _embedding.wrappedValue = isTied ? nil : table
        _tied.wrappedValue = isTied ? table : nil
        _norm.wrappedValue = norm ? RMSNorm(dimensions: 64) : nil
        super.init()
    }

    static func linear(_ rows: Int, _ columns: Int, bias: Bool = false) -> Linear {
        Linear(
            weight: .zeros([rows, columns], dtype: .float16),
            bias: bias ? .zeros([rows], dtype: .float16) : nil
        )
    }
}

/// As mlx-swift-lm's: a matrix for each expert, and nobody else's subclass.
final class SwitchLinear: Module, SwitchLayer, Quantizable {
    let weight: MLXArray
    let bias: MLXArray?

    init(_ shape: [Int], bias: Bool = false) {
        weight = .zeros(shape, dtype: .float16)
        self.bias = bias ? .zeros(Array(shape.dropLast()), dtype: .float16) : nil
    }

    func callAsFunction(
        _ x: MLXArray,
        _ indices: MLXArray,
        sortedIndices: Bool = false
    ) -> MLXArray {
        preconditionFailure("products of floats are not what is tested here")
    }

    func toQuantized(groupSize: Int, bits: Int, mode: QuantizationMode) -> Module {
        preconditionFailure("experts in MLX's formats are mlx-swift-lm's")
    }
}

/// A layer of a mixture of experts: one projection takes any layer of experts, the other one kind alone.
final class Block: Module {
    @ModuleInfo(key: "up_proj") var up: any SwitchLayer
    @ModuleInfo(key: "down_proj") var down: SwitchLinear
    @ModuleInfo var gates: [Linear]

    override init() {
        _up.wrappedValue = SwitchLinear([3, 8, 64], bias: true)
        _down.wrappedValue = SwitchLinear([3, 64, 32])
        _gates.wrappedValue = [SmallModel.linear(3, 64), SmallModel.linear(3, 64)]
        super.init()
    }
}

/// Layers in an array, as of every model.
final class Mixture: Module {
    let layers: [Block]

    init(_ count: Int) {
        layers = (0..<count).map { _ in Block() }
        super.init()
    }
}
