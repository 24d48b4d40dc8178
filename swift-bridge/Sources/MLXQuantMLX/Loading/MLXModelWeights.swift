#if canImport(MLX)
    import MLX
    import MLXNN
    import MLXQuantFormats

    /// A folder's weights as mlx-swift takes them: arrays over the mapped files.
    ///
    /// Formats of MLX come as mlx-swift-lm's own loader has them, `weight`, `scales` and `biases` by
    /// name, and become its quantized layers. Weights in ggml's blocks become ``PackedLinear`` and
    /// ``PackedEmbedding``.
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
        /// ggml's blocks the bytes, uint8 [rows, bytes].
        public let arrays: [String: MLXArray]
        /// The formats of those in ggml's blocks, by the array's name.
        public let blocks: [String: WeightFormat]
        /// The `__metadata__` of the first file.
        public let metadata: [String: String]

        private let quantization: [String: LayerQuantization]
        private let vectors: DType

        /// Takes the arrays of a folder; nothing is read.
        ///
        /// - Parameter folder: an MLX folder, or Hugging Face's.
        /// - Throws: `FormatError` if MLX has no type for an array, or blocks are of a format without
        ///   a kernel or stacked for experts, for which there is no layer here.
        public init(_ folder: ModelFolder) throws(FormatError) {
            var arrays: [String: MLXArray] = [:]
            var floats: [DType] = []
            for tensor in folder.files.flatMap(\.tensors) {
                let array = try MLXArray.mapped(
                    tensor.region,
                    shape: tensor.shape,
                    type: tensor.type
                )
                arrays[tensor.name] = array
                let isScale = tensor.name.hasSuffix(".scales") || tensor.name.hasSuffix(".biases")
                if array.dtype.isFloatingPoint, !isScale {
                    floats.append(array.dtype)
                }
            }
            var blocks: [String: WeightFormat] = [:]
            var quantization: [String: LayerQuantization] = [:]
            for weight in folder.weights {
                if weight.isInBlocks {
                    try check(weight)
                    blocks[weight.name] = weight.format
                } else if let found = weight.format.layerQuantization {
                    quantization[path(of: weight.name)] = found
                }
            }
            self.arrays = arrays
            self.blocks = blocks
            self.quantization = quantization
            metadata = folder.files.first?.metadata ?? [:]
            vectors = floats.first { $0 == .bfloat16 || $0 == .float16 } ?? floats.first ?? .float16
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
        /// - Parameters:
        ///   - model: of mlx-swift-lm, or any other whose parameters are named as the folder's arrays.
        ///   - checksKernels: of each format of blocks, compare the kernels' results on this GPU with
        ///     known ones before the first use.
        ///   - sanitize: what the model does to the arrays first; mlx-swift-lm's models have a method
        ///     of this name. It may rename weights in blocks and leave them out, but not compute.
        /// - Throws: `FormatError` if a kernel fails its check, or no layer can take packed weights;
        ///   mlx-swift's errors if names or shapes do not fit.
        public func load(
            into model: Module,
            checksKernels: Bool = true,
            sanitize: ([String: MLXArray]) throws -> [String: MLXArray] = { $0 }
        ) throws {
            if checksKernels {
                for format in Set(blocks.values).sorted(by: { $0.name < $1.name }) {
                    try PackedKernels.check(format)
                }
            }
            let weights = try sanitize(arrays)
            try replaceLayers(of: model, weights)
            quantize(model: model) { path, _ in
                weights["\(path).scales"] == nil ? nil : quantization(layer: path)
            }
            try model.update(parameters: ModuleParameters.unflattened(weights), verify: [.all])
            eval(model)
            // No array may be written over before everything that reads it is evaluated.
            withExtendedLifetime(arrays) {}
        }

        /// Puts packed layers where blocks belong.
        private func replaceLayers(of model: Module, _ weights: [String: MLXArray]) throws {
            let packed = try packed(in: weights)
            guard !packed.isEmpty else { return }
            let layers = Dictionary(uniqueKeysWithValues: model.leafModules().flattened())
            var replaced: [(String, Module)] = []
            for (path, wire, format) in packed {
                let bias = weights["\(path).bias"]
                let layer: Module
                switch layers[path] {
                case is Linear:
                    layer = try PackedLinear(weight: wire, format: format, bias: bias)
                case is Embedding:
                    layer = try PackedEmbedding(weight: wire, format: format, dtype: vectors)
                default:
                    let kind = layers[path].map { "is \(type(of: $0)), which takes none" }
                    throw refused(path, format, kind ?? "is not in the model")
                }
                replaced.append((path, layer))
            }
            try model.update(modules: ModuleChildren.unflattened(replaced), verify: [.noUnusedKeys])
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
                        "is computed anew by the model's sanitize"
                    )
                }
            }
            return found
        }
    }

    private func refused(_ path: String, _ format: WeightFormat, _ reason: String) -> FormatError {
        FormatError(
            .model,
            field: "layer \(path)",
            reason: "weights are \(format.name), but it \(reason); import the model with "
                + "--requantize affine4-g64"
        )
    }

    /// Refuses blocks that no layer here takes.
    private func check(_ weight: Weight) throws(FormatError) {
        if weight.shape.count != 2 {
            let shape = "has the shape \(weight.shape), and only matrices have layers in Swift"
            throw refused(path(of: weight.name), weight.format, shape)
        }
        if !KernelSource.formats.contains(weight.format.name) {
            throw refused(path(of: weight.name), weight.format, "has no kernel")
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
