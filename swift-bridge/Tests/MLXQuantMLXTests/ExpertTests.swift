import MLX
import MLXNN
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// A matrix for each expert: products, and the layers of models that take them.
struct ExpertTests {
    /// Rows by expert: the same whatever order ids come in, and whichever kernel takes them.
    @Test(arguments: [3, 30])
    func gather(pairs: Int) throws {
        let (all, format, weights) = try PackedLayerTests.q8(rows: 12, columns: 32)
        let wire = all.reshaped([3, 4, 34])
        let ids = (0..<pairs).map { UInt32($0 * 7 % 3) }
        let numbers = (0..<(pairs * 32)).map { Float($0 % 5) }
        let (y, calls) = try run {
            try PackedKernels.gather(
                MLXArray(numbers, [pairs, 32]),
                MLXArray(ids, [pairs]),
                wire,
                format
            )
        }
        let kernel = pairs > 12 ? "gather_matmul_16x32" : "gather_matvec_1x4"
        #expect(calls == ["mlxquant_\(kernel)_q8_0_float32"])
        var expected: [Float] = []
        for p in 0..<pairs {
            for n in 0..<4 {
                expected.append(
                    PackedLayerTests.sum(numbers, p, weights, Int(ids[p]) * 4 + n, columns: 32)
                )
            }
        }
        #expect(y.asArray(Float.self) == expected)
    }

    /// What the layer has to give, in order: nil for an expert that there is none of.
    private func products(
        _ x: [Float],
        _ experts: [Int?],
        _ weights: [Float],
        bias: [Float]
    ) -> [Float?] {
        experts.enumerated().flatMap { row, expert in
            (0..<4).map { n in
                guard let expert else { return nil }
                let sum = PackedLayerTests.sum(x, row, weights, expert * 4 + n, columns: 32)
                return sum + bias[expert * 4 + n]
            }
        }
    }

    /// As mlx-swift-lm calls it: one row an expert of x [tokens, 1, 1, k], or sorted rows [pairs, 1, k].
    @Test(arguments: [(2, false), (20, false), (20, true)])
    func layer(tokens: Int, isSorted: Bool) throws {
        let (all, format, weights) = try PackedLayerTests.q8(rows: 12, columns: 32)
        let bias = (0..<12).map { Float($0) * 1000 }
        let layer = try PackedSwitchLinear(
            weight: all.reshaped([3, 4, 34]),
            format: format,
            bias: MLXArray(bias, [3, 4])
        )
        #expect(layer.shape == (3, 4, 32))
        let numbers = (0..<(tokens * 32)).map { Float($0 % 5) }
        // two experts a token, one of them at times none
        var chosen = (0..<tokens).flatMap { [$0 % 3, $0 % 7 == 6 ? 3 : 1] }
        var x = MLXArray(numbers, [tokens, 1, 1, 32])
        var rows = (0..<tokens).flatMap { [$0, $0] }
        var ids = MLXArray(chosen.map { Int32($0 == 3 ? -1 : $0) }, [tokens, 2])
        if isSorted {
            let order = chosen.indices.sorted { (chosen[$0], $0) < (chosen[$1], $1) }
            (chosen, rows) = (order.map { chosen[$0] }, order.map { rows[$0] })
            x = MLXArray(rows.flatMap { numbers[($0 * 32)..<($0 * 32 + 32)] }, [2 * tokens, 1, 32])
            ids = MLXArray(chosen.map { UInt32($0) })
        }
        let (y, calls) = run { layer(x, ids, sortedIndices: isSorted) }
        #expect(y.shape == ids.shape + [1, 4] && y.dtype == .float32)
        let kernel = tokens > 6 ? "gather_matmul_16x32" : "gather_matvec_1x4"
        #expect(calls == ["mlxquant_\(kernel)_q8_0_float32"])
        let expanded = rows.flatMap { numbers[($0 * 32)..<($0 * 32 + 32)] }
        let wanted = products(expanded, chosen.map { $0 == 3 ? nil : $0 }, weights, bias: bias)
        for (found, right) in zip(y.asArray(Float.self), wanted) {
            #expect(right.map { $0 == found } ?? found.isNaN)
        }
        let half = run { layer(x.asType(.float16), ids, sortedIndices: isSorted) }.0
        #expect(half.dtype == .float16)
    }

    /// Several rows for the same experts, and none at all.
    @Test func shapes() throws {
        let (all, format, weights) = try PackedLayerTests.q8(rows: 12, columns: 32)
        let layer = try PackedSwitchLinear(weight: all.reshaped([3, 4, 34]), format: format)
        let numbers = (0..<(5 * 32)).map { Float($0 % 5) }
        let ids = MLXArray([UInt32(2), 0], [2])
        let y = run { layer(MLXArray(numbers, [1, 5, 32]), ids) }.0
        #expect(y.shape == [2, 5, 4])
        let none = [Float](repeating: 0, count: 12)
        let wanted = [2, 0].flatMap { expert in
            products(numbers, [Int?](repeating: expert, count: 5), weights, bias: none)
        }
        #expect(y.asArray(Float.self) == wanted)
        let (empty, calls) = run { layer(MLXArray.zeros([0, 1, 32], dtype: .float16), ids[0..<0]) }
        #expect(empty.shape == [0, 1, 4] && calls.isEmpty)
    }

    @Test func refusals() throws {
        let (all, format, _) = try PackedLayerTests.q8(rows: 12, columns: 32)
        #expect(throws: FormatError.self) { try PackedSwitchLinear(weight: all, format: format) }
        let bias = MLXArray.zeros([4], dtype: .float32)
        #expect(throws: FormatError.self) {
            try PackedSwitchLinear(weight: all.reshaped([3, 4, 34]), format: format, bias: bias)
        }
        #expect(throws: FormatError.self) {
            try PackedLinear(weight: all.reshaped([3, 4, 34]), format: format)
        }
    }

    /// Experts of the second layer in blocks, all else in floats.
    private static func weights(_ layer: String, _ shape: [Int]) throws -> MLXModelWeights {
        let folder = try TemporaryFolder()
        let blocks = "{\"version\": 1, \"blocks\": {\"\(layer)\": \"Q8_0\"}}"
        try folder.write("config.json", "{\"model_type\": \"llama\", \"mlxquant\": \(blocks)}")
        var tensors: [(name: String, type: String, shape: [Int], bytes: [UInt8])] = []
        for (name, array) in Mixture(2).parameters().flattened() where name != "\(layer).weight" {
            let bytes = [UInt8](repeating: 0, count: array.size * 2)
            tensors.append((name, "F16", array.shape, bytes))
        }
        let count = shape.reduce(1, *)
        tensors.append(("\(layer).weight", "U8", shape, [UInt8](repeating: 1, count: count)))
        try folder.write("model.safetensors", tensors: tensors)
        return try MLXModelWeights(ModelFolder(folder.path))
    }

    /// Where a property takes any layer of experts; and a model of which only the second layer changes.
    @Test func loaderReplacesExperts() throws {
        let path = "layers.1.up_proj"
        let weights = try Self.weights(path, [3, 8, 68])
        let model = Mixture(2)
        let (_, calls) = try run { try weights.load(into: model) }
        let packed = try #require(model.layers[1].up as? PackedSwitchLinear)
        #expect(packed.weight.storage === weights.arrays["\(path).weight"]?.storage)
        #expect(packed.bias?.storage === weights.arrays["\(path).bias"]?.storage)
        #expect(model.layers[0].up is SwitchLinear)
        // the kernels that these layers use have been tried, and no others
        #expect(Set(calls).allSatisfy { $0.contains("_gather_mat") } && calls.count > 2)
    }

    /// mlx-swift-lm's property takes its own class alone: it is said what to do instead.
    @Test func loaderRefusesWhatTheModelDoesNotTake() throws {
        let weights = try Self.weights("layers.1.down_proj", [3, 64, 34])
        let error = #expect(throws: FormatError.self) {
            try weights.load(into: Mixture(2), checksKernels: false)
        }
        let text = error?.description ?? ""
        #expect(text.contains("layer layers.1.down_proj: weights are Q8_0"))
        #expect(text.contains("type mismatch") && text.contains("any SwitchLayer"))
        #expect(text.contains("--requantize"))
    }

    /// What the app makes of a packed layer takes its place.
    @Test func loaderTakesTheAppsLayer() throws {
        let weights = try Self.weights("layers.1.down_proj", [3, 64, 34])
        let model = Mixture(2)
        var asked: [String] = []
        let error = #expect(throws: UpdateError.self) {
            try weights.load(into: model, checksKernels: false) {
                $0
            } experts: { path, layer, packed in
                asked.append("\(path) \(type(of: layer)) \(packed.shape)")
                return SwitchLinear([3, 64, 32])
            }
        }
        #expect(asked == ["layers.1.down_proj SwitchLinear (3, 64, 32)"])
        // it has the place, but not the blocks' shape
        #expect(
            error
                == .mismatchedSize(
                    path: ["layers", "1", "down_proj", "weight"],
                    expectedShape: [3, 64, 32],
                    actualShape: [3, 64, 34]
                )
        )
    }

    /// A layer in an array of layers.
    @Test func loaderReplacesOneOfSeveral() throws {
        let weights = try Self.weights("layers.1.gates.1", [3, 68])
        let model = Mixture(2)
        try weights.load(into: model, checksKernels: false)
        #expect(model.layers[1].gates[1] is PackedLinear)
        #expect(!(model.layers[1].gates[0] is PackedLinear))
    }
}
