#if canImport(MLX)
    import MLX
    import MLXNN
    import MLXQuantFormats

    /// A folder's weights as mlx-swift takes them: arrays over the mapped files.
    ///
    /// Formats of MLX come as mlx-swift-lm's own loader has them, `weight`, `scales` and `biases` by
    /// name, and become its quantized layers. Weights in ggml's blocks become ``PackedLinear``,
    /// ``PackedEmbedding`` and, of experts, ``PackedSwitchLinear``.
    ///
    /// ```swift
    /// let weights = try MLXModelWeights(ModelFolder(path))
    /// let model = LlamaModel(configuration)  // of mlx-swift-lm
    /// try weights.load(into: model) { model.sanitize(weights: $0) }
    /// ```
    ///
    /// Arrays are not `Sendable`: load them where the model is used, as in mlx-swift-lm's
    /// `ModelContainer`.
    public struct MLXModelWeights {
        /// How mlx-swift packs a layer: group size, bits, mode.
        public typealias LayerQuantization = (groupSize: Int, bits: Int, mode: QuantizationMode)

        /// Every array by its name in the files, what mlx-swift-lm's `sanitize` takes; of weights in
        /// ggml's blocks the bytes, uint8 [rows, bytes] or [experts, rows, bytes].
        public let arrays: [String: MLXArray]
        /// The formats of those in ggml's blocks, by the array's name.
        public let blocks: [String: WeightFormat]
        /// The `__metadata__` of the first file.
        public let metadata: [String: String]

        private let quantization: [String: LayerQuantization]
        private let standard: LayerQuantization?
        private let floats: [FloatType]

        /// Takes the arrays of a folder; nothing is read.
        ///
        /// - Parameter folder: an MLX folder, or Hugging Face's.
        /// - Throws: `FormatError` if MLX has no type for an array, mlx-swift does not have a width, or
        ///   blocks are of a format without a kernel.
        public init(_ folder: ModelFolder) throws(FormatError) {
            var arrays: [String: MLXArray] = [:]
            var floats: [FloatType] = []
            for tensor in folder.files.flatMap(\.tensors) {
                let array = try MLXArray.mapped(
                    tensor.region,
                    shape: tensor.shape,
                    type: tensor.type
                )
                arrays[tensor.name] = array
                let isScale = tensor.name.hasSuffix(".scales") || tensor.name.hasSuffix(".biases")
                if let type = FloatType.allCases.first(where: { $0.dtype == array.dtype }),
                    !isScale, !floats.contains(type)
                {
                    floats.append(type)
                }
            }
            var blocks: [String: WeightFormat] = [:]
            var quantization: [String: LayerQuantization] = [:]
            for weight in folder.weights {
                try check(weight)
                if weight.isInBlocks {
                    blocks[weight.name] = weight.format
                } else if let found = weight.format.layerQuantization {
                    quantization[path(of: weight.name)] = found
                }
            }
            self.arrays = arrays
            self.blocks = blocks
            self.quantization = quantization
            standard = (folder.quantization?.scheme).flatMap { scheme in
                QuantizationMode(rawValue: scheme.mode.rawValue).map {
                    (scheme.groupSize, scheme.bits, $0)
                }
            }
            metadata = folder.files.first?.metadata ?? [:]
            self.floats = floats.isEmpty ? [.float16] : floats
        }

        /// How a layer is packed in one of MLX's formats; nil where it is not.
        ///
        /// This is what mlx-swift's `quantize(model:filter:)` asks for, and what mlx-swift-lm finds in
        /// config.json as `BaseConfiguration.PerLayerQuantization`.
        ///
        /// - Parameter path: of the module, such as `model.layers.0.mlp.up_proj`.
        /// - Returns: what it is packed with.
        public func quantization(layer path: String) -> LayerQuantization? {
            quantization[path]
        }

        /// Gives a model its weights.
        ///
        /// Layers are replaced where the weights are packed, then every parameter is set; what is
        /// computed on the way is evaluated before this returns.
        ///
        /// mlx-swift-lm's models have `SwitchLinear` for their experts and take nothing else, and no other
        /// package can derive from it. So experts in blocks are for models whose property is of the
        /// type `any` ``SwitchLayer``, or for which `experts` makes a layer that they take; experts in
        /// MLX's formats are for all.
        ///
        /// - Parameters:
        ///   - model: of mlx-swift-lm, or any other whose parameters are named as the folder's arrays.
        ///   - checksKernels: compare the results on this GPU of the kernels that the model's layers
        ///     use with known ones before the first use.
        ///   - sanitize: what the model does to the arrays first; mlx-swift-lm's models have a method
        ///     of this name. It may rename weights in blocks and leave them out, but not compute.
        ///   - experts: what stands for a layer of experts: given its path, the model's own layer and
        ///     the packed one, which is taken as it is unless something else is returned. A parameter
        ///     `weight` (and `bias`) of the packed one's shape is expected of it.
        /// - Throws: `FormatError` if a kernel fails its check, or no layer can take packed weights;
        ///   mlx-swift's errors if names or shapes do not fit, or something cannot be computed.
        public func load(
            into model: Module,
            checksKernels: Bool = true,
            sanitize: ([String: MLXArray]) throws -> [String: MLXArray] = { $0 },
            experts: (String, Module, PackedSwitchLinear) throws -> Module = { $2 }
        ) throws {
            let weights = try sanitize(arrays)
            let layers = Dictionary(
                model.leafModules().flattened(),
                uniquingKeysWith: { first, _ in first }
            )
            let packed = try packedLayers(for: layers, weights, experts)
            if checksKernels {
                try PackedKernels.check(packed.flatMap(\.trials))
            }
            let quantized = try withError { quantizedLayers(for: layers, weights) }
            do {
                try model.replace(packed.map { ($0.path, $0.module) } + quantized)
            } catch let error as NotReplaced {
                throw refused(error, packed.first { $0.path == error.path }?.format)
            }
            try model.update(parameters: ModuleParameters.unflattened(weights), verify: [.all])
            try checkedEval(model)
            // No array may be written over before everything that reads it is evaluated.
            withExtendedLifetime(arrays) {}
        }
    }

    extension MLXModelWeights {
        /// A layer of blocks, and where it belongs.
        private struct Packed {
            let path: String
            let module: Module
            let format: WeightFormat
            let trials: [Trial]
        }

        /// The layers that blocks need.
        private func packedLayers(
            for layers: [String: Module],
            _ weights: [String: MLXArray],
            _ experts: (String, Module, PackedSwitchLinear) throws -> Module
        ) throws -> [Packed] {
            try packed(in: weights).map { path, wire, format in
                let bias = weights["\(path).bias"]
                let module: Module
                switch layers[path] {
                case is Linear:
                    module = try PackedLinear(weight: wire, format: format, bias: bias)
                case is Embedding:
                    module = try PackedEmbedding(weight: wire, format: format, dtype: vectors.dtype)
                case let layer? where isOfExperts(layer, wire.shape, format):
                    let packed = try PackedSwitchLinear(weight: wire, format: format, bias: bias)
                    module = try experts(path, layer, packed)
                case let layer:
                    let kind = layer.map {
                        "is \(type(of: $0)), which takes no \(format.name) \(wire.shape)"
                    }
                    throw refused(path, format, "it \(kind ?? "is not in the model")")
                }
                let trials = try floats.flatMap { type in
                    try Trial.all(format, wire: wire.shape, type, looksUp: module is Embedding)
                }
                return Packed(path: path, module: module, format: format, trials: trials)
            }
        }

        /// mlx-swift's quantized layers, where there are scales.
        private func quantizedLayers(
            for layers: [String: Module],
            _ weights: [String: MLXArray]
        ) -> [(path: String, module: Module)] {
            let names = Dictionary(uniqueKeysWithValues: arrays.map { (ObjectIdentifier($1), $0) })
            return layers.sorted { $0.key < $1.key }.compactMap { path, layer in
                guard let scales = weights["\(path).scales"] else { return nil }
                // as the files name it, if the model's sanitize has renamed it
                let name = names[ObjectIdentifier(scales)]?.dropLast(".scales".count)
                let own = name.flatMap { quantization[String($0)] } ?? quantization[path]
                guard let (groupSize, bits, mode) = own ?? standard else { return nil }
                return quantizeSingle(layer: layer, groupSize: groupSize, bits: bits, mode: mode)
                    .map { (path, $0) }
            }
        }

        /// The element type of an embedding's vectors.
        private var vectors: FloatType {
            floats.first { $0 != .float32 } ?? .float32
        }

        /// Whether a layer has matrices of the blocks' shape, one an expert.
        private func isOfExperts(_ layer: Module, _ wire: [Int], _ format: WeightFormat) -> Bool {
            let own = layer.parameters().flattened().first { $0.0 == "weight" }?.1.shape
            guard wire.count == 3, wire[2] % format.blockBytes == 0 else { return false }
            return own == [wire[0], wire[1], wire[2] / format.blockBytes * format.blockSize]
        }

        /// Modules' paths, bytes and formats of what is in blocks, under the model's own names.
        private func packed(
            in weights: [String: MLXArray]
        ) throws(FormatError) -> [(String, MLXArray, WeightFormat)] {
            var formats: [ObjectIdentifier: WeightFormat] = [:]
            for (name, format) in blocks {
                if let array = arrays[name] {
                    formats[ObjectIdentifier(array)] = format
                }
            }
            var found: [(String, MLXArray, WeightFormat)] = []
            for (name, array) in weights.sorted(by: { $0.key < $1.key }) {
                if let format = formats[ObjectIdentifier(array)] {
                    found.append((path(of: name), array, format))
                } else if let format = blocks[name] {
                    throw refused(
                        path(of: name),
                        format,
                        "it is computed anew by the model's sanitize"
                    )
                }
            }
            return found
        }
    }

    private func refused(
        _ path: String,
        _ format: WeightFormat,
        _ reason: String,
        or: String = ""
    ) -> FormatError {
        FormatError(
            .model,
            field: "layer \(path)",
            reason: "weights are \(format.name), but \(reason); \(or)import the model with "
                + "--requantize affine4-g64"
        )
    }

    /// What a model does not take, as an error that says what to do.
    private func refused(_ error: NotReplaced, _ format: WeightFormat?) -> FormatError {
        let reason = "the model takes no \(error.type) there (\(error.reason))"
        guard let format else {
            return FormatError(
                .model,
                field: "layer \(error.path)",
                reason: "\(reason): declare the property with @ModuleInfo"
            )
        }
        let property = error.isOfExperts ? "declare the property as any SwitchLayer, or " : ""
        return refused(error.path, format, reason, or: property)
    }

    /// Refuses what no layer takes.
    private func check(_ weight: Weight) throws(FormatError) {
        if let (_, bits, mode) = weight.format.layerQuantization {
            // MLX would stop the program
            guard mode != .affine || bits > 1 else {
                throw FormatError(
                    .model,
                    field: "layer \(path(of: weight.name))",
                    reason:
                        "weights are \(weight.format.name), and mlx-swift has 2, 3, 4, 5, 6 and "
                        + "8 bits; quantize the model anew, --bits 2 or more"
                )
            }
        }
        guard weight.isInBlocks else { return }
        if !(2...3).contains(weight.shape.count) {
            let shape = "it has the shape \(weight.shape), not that of a matrix or of experts'"
            throw refused(path(of: weight.name), weight.format, shape)
        }
        if !KernelSource.formats.contains(weight.format.name) {
            throw refused(path(of: weight.name), weight.format, "it has no kernel")
        }
    }

    /// A module's path, by the name of its weight.
    private func path(of name: String) -> String {
        name.hasSuffix(".weight") ? String(name.dropLast(7)) : name
    }

    extension Weight {
        /// Whether it is in ggml's blocks.
        fileprivate var isInBlocks: Bool {
            format.parts.count == 1 && format.blockSize > 1
        }
    }

    extension WeightFormat {
        /// How mlx-swift packs it; nil for other formats than MLX's.
        fileprivate var layerQuantization: MLXModelWeights.LayerQuantization? {
            guard parts.count > 1 else { return nil }
            let name = self.name.hasPrefix("affine") ? "affine" : self.name
            return QuantizationMode(rawValue: name).map { (blockSize, bits, $0) }
        }
    }
#endif
