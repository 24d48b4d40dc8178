// ggml's blocks in a model folder: what config.json's `mlxquant` says, held against the arrays.
//
//     "mlxquant": {"version": 1, "blocks": {"model.layers.0.mlp.up_proj": "Q4_K", …}}
//
//     P.weight   U8 [..., rows, row_bytes]     a row's blocks one after the other, as in a GGUF file
//
// A layer is in `blocks` or packed by MLX (`quantization`), not both.

/// The layers of a folder that are kept in ggml's blocks.
struct KeptBlocks {
    /// The weights by name.
    private(set) var weights: [String: Weight] = [:]
    /// What they are, where there are any.
    private(set) var note: String?

    private static let version = 1

    init(
        _ path: String,
        _ config: JSONObject,
        _ quantization: Quantization?,
        _ shards: Shards
    ) throws(FormatError) {
        func refuse(_ field: String, _ reason: String) -> FormatError {
            FormatError(.model, file: path, field: field, reason: reason)
        }
        for (layer, type) in try Self.layers(path, config) {
            let field = "mlxquant.blocks[\(quote(layer))]"
            let said = "conflict: \(type.name), but"
            guard let weight = shards["\(layer).weight"] else {
                throw refuse(field, "\(said) the weights hold no such layer")
            }
            if let other = quantization?.entries[layer], other.entry != .none {
                throw refuse(field, "\(said) quantization says \(show(other.json))")
            }
            let file = weight.region.file.name
            guard shards["\(layer).scales"] == nil else {
                let reason = "holds scales beside it, as of MLX's own formats"
                throw refuse(field, "\(said) \(file) \(reason)")
            }
            guard weight.type == .u8 else {
                let holds = "\(weight.type.rawValue) \(weight.shape), not U8"
                throw refuse(field, "\(said) \(file) holds \(holds)")
            }
            guard weight.shape.count >= 2, let bytes = weight.shape.last,
                bytes % type.blockBytes == 0
            else {
                let reason = "U8 \(weight.shape); rows of whole blocks of \(type.blockBytes) bytes"
                throw FormatError(
                    .file,
                    file: weight.region.file.path,
                    field: "tensor \(quote(weight.name))",
                    reason: "\(reason) expected (\(type.name))"
                )
            }
            let (width, overflow) = (bytes / type.blockBytes)
                .multipliedReportingOverflow(by: type.blockSize)
            let wide = layer.hasSuffix("embed_tokens") || layer.hasSuffix("lm_head")
            let hidden = wide ? hiddenSize(config) : nil
            guard !overflow, hidden == nil || hidden == width else {
                let reason = "so rows of \(width), but hidden_size is \(hidden ?? 0)"
                throw refuse(field, "conflict: \(type.name), \(reason)")
            }
            weights[weight.name] = Weight(
                name: weight.name,
                shape: weight.shape.dropLast() + [width],
                format: WeightFormat(type),
                parts: [weight.region]
            )
        }
        if !weights.isEmpty {
            let names = Set(weights.values.map(\.format.name)).sorted().joined(separator: ", ")
            note = "weights in GGUF's blocks, which mlxquant reads and mlx-lm does not: \(names)"
        }
    }

    /// The type of every layer that config.json says is kept in blocks.
    private static func layers(
        _ path: String,
        _ config: JSONObject
    ) throws(FormatError) -> [(String, GGMLType)] {
        func refuse(_ field: String, _ reason: String) -> FormatError {
            FormatError(.model, file: path, field: field, reason: reason)
        }
        guard let value = config["mlxquant"], value != .null else { return [] }
        guard let entry = value.object else {
            throw refuse("mlxquant", "\(show(value)): an object expected")
        }
        guard entry["version"]?.int == version else {
            let found = entry["version"].map { show($0) } ?? "missing"
            let reason = "\(found), \(version) expected; a newer mlxquant may know it"
            throw refuse("mlxquant.version", reason)
        }
        for member in entry.members where !["version", "blocks"].contains(member.name) {
            let reason = "unknown \(quote(member.name)): \(show(member.value))"
            let known = "version \(version) has only version and blocks"
            throw refuse("mlxquant", "\(reason); \(known)")
        }
        guard let blocks = entry["blocks"]?.object else {
            let found = show(entry["blocks"] ?? .null)
            throw refuse("mlxquant.blocks", "\(found): an object of layers and types expected")
        }
        var layers: [(String, GGMLType)] = []
        for member in blocks.members {
            guard let name = member.value.string, let type = GGMLType(name: name),
                type.name == name, type.blockSize > 1, type != .q8_1
            else {
                let known = GGMLType.allCases.filter { $0.blockSize > 1 && $0 != .q8_1 }
                let names = known.map(\.name).joined(separator: ", ")
                let reason = "\(show(member.value)) is no block type; choose one of \(names)"
                throw refuse("mlxquant.blocks[\(quote(member.name))]", reason)
            }
            layers.append((member.name, type))
        }
        return layers
    }
}
