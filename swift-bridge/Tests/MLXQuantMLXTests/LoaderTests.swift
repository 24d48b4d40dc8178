import MLX
import MLXNN
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// Folders become models: every layer by what config.json and the arrays say of it.
struct LoaderTests {
    /// A folder with an embedding in Q8_0, layers in affine4, mxfp4 and Q8_0, and a norm.
    private static func folder() throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        try folder.write(
            "config.json",
            """
            {"model_type": "llama", "hidden_size": 64, "vocab_size": 8,
             "quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                              "b": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
                              "embed_tokens": false, "c": false},
             "mlxquant": {"version": 1, "blocks": {"embed_tokens": "Q8_0", "c": "Q8_0"}}}
            """
        )
        func bytes(_ count: Int) -> [UInt8] {
            [UInt8](repeating: 1, count: count)
        }
        try folder.write(
            "model.safetensors",
            tensors: [
                ("a.weight", "U32", [64, 8], bytes(2048)),
                ("a.scales", "F16", [64, 1], bytes(128)),
                ("a.biases", "F16", [64, 1], bytes(128)),
                ("b.weight", "U32", [64, 8], bytes(2048)),
                ("b.scales", "U8", [64, 2], bytes(128)),
                ("c.weight", "U8", [16, 68], bytes(1088)),
                ("c.bias", "F16", [16], bytes(32)),
                ("embed_tokens.weight", "U8", [8, 68], bytes(544)),
                ("norm.weight", "F16", [64], bytes(128)),
            ]
        )
        return folder
    }

    private static func model() -> Module {
        let model = Module()
        func zeros(_ shape: Int...) -> MLXArray { .zeros(shape, dtype: .float16) }
        model.layers = [
            "a": Linear(weight: zeros(64, 64)),
            "b": Linear(weight: zeros(64, 64)),
            "c": Linear(weight: zeros(16, 64), bias: zeros(16)),
            "embed_tokens": Embedding(weight: zeros(8, 64)),
            "norm": RMSNorm(dimensions: 64),
        ]
        return model
    }

    private func onKnownKernels<R>(_ body: () throws -> R) rethrows -> R {
        var kernels = KnownKernels()
        return try MLXFast.withKernels({ try kernels.run($0) }, body)
    }

    @Test func everyLayerAsItIsStored() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        #expect(weights.arrays.count == 9 && weights.metadata == ["format": "mlx"])
        #expect(
            weights.blocks.mapValues(\.name) == ["c.weight": "Q8_0", "embed_tokens.weight": "Q8_0"]
        )
        let b = try #require(weights.quantization(layer: "b"))
        #expect(b == (32, 4, .mxfp4))
        #expect(weights.quantization(layer: "c") == nil)

        let model = Self.model()
        try onKnownKernels { try weights.load(into: model) }
        let a = try #require(model.layers["a"] as? QuantizedLayer)
        #expect((a.groupSize, a.bits, a.mode) == (64, 4, .affine))
        #expect(a.parameters["biases"] === weights.arrays["a.biases"])
        let packed = try #require(model.layers["b"] as? QuantizedLayer)
        #expect((packed.groupSize, packed.bits, packed.mode) == (32, 4, .mxfp4))
        let c = try #require(model.layers["c"] as? PackedLinear)
        #expect(c.format.name == "Q8_0" && c.shape == (16, 64))
        #expect(c.weight === weights.arrays["c.weight"] && c.bias === weights.arrays["c.bias"])
        let embedding = try #require(model.layers["embed_tokens"] as? PackedEmbedding)
        #expect(embedding.dtype == .float16 && embedding.shape == (8, 64))
        // everything is evaluated while the mapped arrays are held
        #expect(model.events == ["update", "eval"])
    }

    /// mlx-swift-lm's models may rename what they get, and leave things out.
    @Test func sanitizeRenames() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        let model = Self.model()
        model.layers["tied"] = model.layers.removeValue(forKey: "embed_tokens")
        model.layers["norm"] = nil
        try onKnownKernels {
            try weights.load(into: model) { arrays in
                var arrays = arrays
                arrays["tied.weight"] = arrays.removeValue(forKey: "embed_tokens.weight")
                arrays["norm.weight"] = nil
                return arrays
            }
        }
        #expect(model.layers["tied"] is PackedEmbedding)
    }

    @Test func refusals() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        func text(_ model: Module, _ change: ([String: MLXArray]) -> [String: MLXArray]) -> String {
            do {
                try onKnownKernels { try weights.load(into: model, sanitize: change) }
                return ""
            } catch { return "\(error)" }
        }
        let missing = Self.model()
        missing.layers["c"] = nil
        #expect(
            text(missing) { $0 }.contains("layer c: weights are Q8_0, but it is not in the model")
        )
        let other = Self.model()
        other.layers["c"] = RMSNorm(dimensions: 64)
        #expect(text(other) { $0 }.contains("it is RMSNorm, which takes none"))
        let computed = text(Self.model()) { arrays in
            var arrays = arrays
            arrays["c.weight"] = arrays["c.weight"]?.reshaped([16, 68])
            return arrays
        }
        #expect(computed.contains("is computed anew by the model's sanitize"))
        let unknown = Self.model()
        unknown.layers["norm"] = nil
        #expect(text(unknown) { $0 }.contains("norm.weight"))
    }

    /// The check runs before the model has any weight of the kernels' format.
    @Test func kernelsAreCheckedFirst() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        let model = Self.model()
        #expect(throws: FormatError.self) {
            try MLXFast.withKernels({ call in
                call.outputShapes.map { MLXArray.zeros($0, dtype: call.outputDTypes[0]) }
            }) { try weights.load(into: model) }
        }
        #expect(model.events.isEmpty && !(model.layers["c"] is PackedLinear))
    }

    @Test func expertsInBlocksAreRefused() throws {
        let folder = try TemporaryFolder()
        try folder.write(
            "config.json",
            """
            {"model_type": "llama", "mlxquant": {"version": 1, "blocks": {"switch_mlp.up_proj": "Q8_0"}}}
            """
        )
        let bytes = [UInt8](repeating: 0, count: 2 * 4 * 34)
        try folder.write(
            "model.safetensors",
            tensors: [("switch_mlp.up_proj.weight", "U8", [2, 4, 34], bytes)]
        )
        let opened = try ModelFolder(folder.path)
        #expect(throws: FormatError.self) { try MLXModelWeights(opened) }
    }
}
