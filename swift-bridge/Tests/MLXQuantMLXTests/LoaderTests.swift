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

        let model = SmallModel()
        try onKnownKernels { try weights.load(into: model) }
        let a = try #require(model.a as? QuantizedLinear)
        #expect((a.groupSize, a.bits, a.mode) == (64, 4, .affine))
        #expect(a.biases?.storage === weights.arrays["a.biases"]?.storage)
        let packed = try #require(model.b as? QuantizedLinear)
        #expect((packed.groupSize, packed.bits, packed.mode) == (32, 4, .mxfp4))
        let c = try #require(model.c as? PackedLinear)
        #expect(c.format.name == "Q8_0" && c.shape == (16, 64))
        #expect(c.weight.storage === weights.arrays["c.weight"]?.storage)
        #expect(c.bias?.storage === weights.arrays["c.bias"]?.storage)
        let embedding = try #require(model.embedding as? PackedEmbedding)
        #expect(embedding.dtype == .float16 && embedding.shape == (8, 64))
        // everything is evaluated while the mapped arrays are held
        #expect(model.events == ["update", "eval"])
    }

    /// mlx-swift-lm's models may rename what they get, and leave things out.
    @Test func sanitizeRenames() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        let model = SmallModel(isTied: true, norm: false)
        try weights.load(into: model, checksKernels: false) { arrays in
            var arrays = arrays
            arrays["tied.weight"] = arrays.removeValue(forKey: "embed_tokens.weight")
            arrays["norm.weight"] = nil
            for part in ["weight", "scales", "biases"] {
                let (a, b) = (arrays["a.\(part)"], arrays["b.\(part)"])
                (arrays["a.\(part)"], arrays["b.\(part)"]) = (b, a)
            }
            return arrays
        }
        #expect(model.tied is PackedEmbedding)
        // a layer is packed as its own arrays are, whatever their name is now
        let (a, b) = (model.a as? QuantizedLinear, model.b as? QuantizedLinear)
        #expect(a?.mode == .mxfp4 && b?.mode == .affine)
    }

    /// Loads a model that does not fit, and gives what is said.
    private func refusal(
        _ weights: MLXModelWeights,
        _ model: Module,
        _ change: ([String: MLXArray]) -> [String: MLXArray] = { $0 }
    ) -> String {
        do {
            try weights.load(into: model, checksKernels: false, sanitize: change)
            return ""
        } catch { return "\(error)" }
    }

    @Test func refusals() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        let missing = refusal(weights, SmallModel(c: nil))
        #expect(missing.contains("layer c: weights are Q8_0, but it is not in the model"))
        let other = refusal(weights, SmallModel(c: RMSNorm(dimensions: 64)))
        #expect(other.contains("it is RMSNorm, which takes no Q8_0 [16, 68]"))
        let computed = refusal(weights, SmallModel()) { arrays in
            var arrays = arrays
            arrays["c.weight"] = arrays["c.weight"]?.reshaped([16, 68])
            return arrays
        }
        #expect(computed.contains("it is computed anew by the model's sanitize"))
        #expect(refusal(weights, SmallModel(norm: false)).contains("norm"))
    }

    /// The check runs before the model has any weight of the kernels' format.
    @Test func kernelsAreCheckedFirst() throws {
        let folder = try Self.folder()
        let weights = try MLXModelWeights(try ModelFolder(folder.path))
        let model = SmallModel()
        #expect(throws: FormatError.self) {
            try MLXFast.withKernels({ call in
                call.outputShapes.map { MLXArray.zeros($0, dtype: call.outputDTypes[0]) }
            }) { try weights.load(into: model) }
        }
        #expect(model.events.isEmpty && !(model.c is PackedLinear))
    }

    /// MLX of mlx-swift has no single bit, and would stop the program.
    @Test func oneBitIsRefused() throws {
        let folder = try TemporaryFolder()
        try folder.write(
            "config.json",
            #"{"model_type": "llama", "quantization": {"group_size": 64, "bits": 1}}"#
        )
        try folder.write(
            "model.safetensors",
            tensors: [
                ("a.weight", "U32", [2, 2], [UInt8](repeating: 1, count: 16)),
                ("a.scales", "F16", [2, 1], [0, 0, 0, 0]),
                ("a.biases", "F16", [2, 1], [0, 0, 0, 0]),
            ]
        )
        let opened = try ModelFolder(folder.path)
        let error = #expect(throws: FormatError.self) { try MLXModelWeights(opened) }
        #expect(error?.description.contains("layer a: weights are affine1-g64") == true)
    }
}
