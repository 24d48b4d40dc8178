/// Puts together the arrays of MLX's packed layers, and holds them against config.json.
struct PackedLayers {
    /// Of config.json, to blame.
    let path: String
    let config: JSONObject
    let quantization: Quantization?
    let shards: Shards

    /// Of the folder's unpacked weights; what packed ones without a type of their own are decoded in.
    let floats: ElementType

    /// The packed weights by name.
    private(set) var weights: [String: Weight] = [:]
    /// The names of arrays that belong to a packed weight, and stand for nothing alone.
    private(set) var parts: Set<String> = []
    /// What was seen and changes nothing.
    private(set) var notes: [String] = []

    init(
        _ path: String,
        _ config: JSONObject,
        _ quantization: Quantization?,
        _ shards: Shards
    ) throws(FormatError) {
        self.path = path
        self.config = config
        self.quantization = quantization
        self.shards = shards
        floats = floatType(of: shards)
        let stems = shards.stored.compactMap { tensor in
            tensor.name.hasSuffix(".weight") ? String(tensor.name.dropLast(7)) : nil
        }
        let packed = stems.filter { shards["\($0).scales"] != nil }
        guard let quantization else {
            for stem in packed where shards["\(stem).weight"]?.type == .u32 {
                if case .object? = config["quantization_config"] { continue }
                let reason = "missing, but \(quote(stem)) is packed"
                throw refuse("quantization", "\(reason): add what it was quantized with")
            }
            return
        }
        for stem in packed {
            guard let weight = shards["\(stem).weight"], let scales = shards["\(stem).scales"]
            else {
                continue
            }
            let layer = Layer(stem: stem, weight: weight, scales: scales)
            weights[weight.name] = try self.weight(layer, quantization)
            parts.formUnion(["\(stem).scales", "\(stem).biases"])
        }
        try checkEntries(quantization, Set(packed))
    }

    /// A packed layer's arrays.
    private struct Layer {
        let stem: String
        let weight: StoredTensor
        let scales: StoredTensor
    }

    /// One packed layer, its arrays held against each other and against config.json.
    private func weight(
        _ layer: Layer,
        _ quantization: Quantization
    ) throws(FormatError) -> Weight {
        let biases = try checkArrays(layer)
        let (scheme, saidBy) = try declared(layer, quantization)
        let words = layer.weight.shape.last ?? 0
        let groups = layer.scales.shape.last ?? 0
        let floating = layer.scales.type != .u8
        let fitting = QuantizationScheme.Mode.allCases.filter { ($0 == .affine) == floating }
            .flatMap(\.schemes).filter { $0.width(words: words, groups: groups) != nil }
        guard fitting.contains(scheme), let width = scheme.width(words: words, groups: groups)
        else {
            let scales = "\(groups) scales (\(layer.scales.type.rawValue)) a row"
            let means = fitting.map(\.described).joined(separator: " or ")
            let reason = "conflict: \(saidBy) says \(scheme.described), but"
            let holds =
                "\(layer.weight.region.file.name) holds \(words) packed columns and \(scales)"
            throw refuse(
                "layer \(quote(layer.stem))",
                "\(reason) \(holds): \(means.isEmpty ? "nothing that MLX has" : means)"
            )
        }
        if layer.stem.hasSuffix("embed_tokens") || layer.stem.hasSuffix("lm_head"),
            let hidden = hiddenSize(config), width != hidden
        {
            // 4 bits in groups of 64 look like 8 bits in groups of 32: only the width tells.
            for other in fitting where other.width(words: words, groups: groups) == hidden {
                let reason = "conflict: \(saidBy) says \(scheme.described), so rows of \(width)"
                let means = "hidden_size \(hidden) means \(other.described)"
                throw refuse("layer \(quote(layer.stem))", "\(reason); \(means)")
            }
        }
        return Weight(
            name: layer.weight.name,
            shape: layer.weight.shape.dropLast() + [width],
            format: WeightFormat(scheme, floats: floating ? layer.scales.type : floats),
            parts: [layer.weight.region, layer.scales.region] + (biases.map { [$0.region] } ?? [])
        )
    }

    /// The biases, if there are any; refuses arrays that contradict each other.
    private func checkArrays(_ layer: Layer) throws(FormatError) -> StoredTensor? {
        let (weight, scales) = (layer.weight, layer.scales)
        let biases = shards["\(layer.stem).biases"]
        func blame(_ reason: String) -> FormatError {
            let field = "tensor \(quote(weight.name))"
            return FormatError(.file, file: weight.region.file.path, field: field, reason: reason)
        }
        let floating = [.f16, .bf16, .f32].contains(scales.type)
        guard weight.type == .u32, floating || scales.type == .u8 else {
            let reason = "\(weight.type.rawValue) with scales of \(scales.type.rawValue)"
            throw blame("\(reason); packed weights are U32, with scales of F16, BF16, F32 or U8")
        }
        guard shards["\(layer.stem).global_scale"] == nil else {
            throw blame("a nvfp4 weight with a global_scale is not supported")
        }
        guard weight.shape.count >= 2, weight.shape.dropLast() == scales.shape.dropLast() else {
            throw blame("shape \(weight.shape), but its scales \(scales.shape)")
        }
        if floating, biases?.type != scales.type || biases?.shape != scales.shape {
            let kind = "\(scales.type.rawValue) \(scales.shape)"
            let other = biases.map { "\($0.type.rawValue) \($0.shape)" } ?? "missing"
            throw blame("scales \(kind), biases \(other); an affine weight needs both alike")
        }
        guard floating || biases == nil else {
            throw blame("has biases beside U8 scales; only affine weights have biases")
        }
        return biases
    }

    /// What a layer's packing is declared to be, and what declares it.
    private func declared(
        _ layer: Layer,
        _ quantization: Quantization
    ) throws(FormatError) -> (QuantizationScheme, String) {
        guard let (entry, json) = quantization.entries[layer.stem] else {
            // U8 scales beside an affine top level: their number alone tells the mode.
            if layer.scales.type == .u8, quantization.scheme.mode == .affine {
                let words = layer.weight.shape.last ?? 0
                let groups = layer.scales.shape.last ?? 0
                let only = QuantizationScheme.Mode.allCases.filter { $0 != .affine }
                    .flatMap(\.schemes).filter { $0.width(words: words, groups: groups) != nil }
                if only.count == 1 {
                    return (only[0], "its scales")
                }
            }
            return (quantization.scheme, "quantization")
        }
        let field = "quantization[\(quote(layer.stem))]"
        switch entry {
        case .packed(let scheme): return (scheme, field)
        case .standard: return (quantization.scheme, field)
        case .none:
            let file = layer.weight.region.file.name
            let reason = "conflict: \(show(json)) (not quantized), but \(file) holds it packed"
            throw refuse(field, reason)
        }
    }

    /// Refuses entries for layers that are not there or not packed; notes what changes nothing.
    private mutating func checkEntries(
        _ quantization: Quantization,
        _ packed: Set<String>
    ) throws(FormatError) {
        let layers = Set(
            shards.stored.map { tensor in
                tensor.name.lastIndex(of: ".").map { String(tensor.name[..<$0]) } ?? ""
            }
        )
        for (layer, entry) in quantization.layers where !packed.contains(layer) {
            let field = "quantization[\(quote(layer))]"
            let json = quantization.entries[layer].map { show($0.json) } ?? ""
            if entry == .none {
                if !layers.contains(layer) {
                    notes.append("config.json: \(field) is \(json) for a layer that is not there")
                }
                continue
            }
            guard layers.contains(layer) else {
                throw refuse(field, "conflict: \(json), but the weights hold no such layer")
            }
            let holds = shards["\(layer).weight"].map {
                "\($0.type.rawValue) \($0.shape), not packed"
            }
            let reason = "but the layer holds \(holds ?? "no weight")"
            throw refuse(field, "conflict: \(json), \(reason)")
        }
        if packed.isEmpty {
            notes.append("config.json: quantization is given, but no weight is packed")
        }
    }

    private func refuse(_ field: String, _ reason: String) -> FormatError {
        FormatError(.model, file: path, field: field, reason: reason)
    }
}

/// The width of the model's embedding and head, where config.json says it.
func hiddenSize(_ config: JSONObject) -> Int? {
    (config["hidden_size"] ?? config["text_config"]?["hidden_size"])?.int
}

/// The type of a folder's unpacked weights: that of the first one of floats which is no scale and no
/// bias of a packed one; BF16 where there is none.
private func floatType(of shards: Shards) -> ElementType {
    let floats: [ElementType] = [.f16, .bf16, .f32]
    let first = shards.stored.first { tensor in
        floats.contains(tensor.type) && !tensor.name.hasSuffix(".scales")
            && !tensor.name.hasSuffix(".biases")
    }
    return first?.type ?? .bf16
}
