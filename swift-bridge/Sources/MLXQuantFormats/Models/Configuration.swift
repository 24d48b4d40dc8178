// config.json: read, found plausible, and searched for code that it would have somebody run.

/// How large a number may be.
private struct Bound {
    let least, most: Int
    /// Whether null and a list of such numbers are fine too.
    var loose = false
}

/// The most is a hundred times what any published model has; a lie beyond it is caught before anything
/// is built.
private let bounds: [(keys: [String], bound: Bound)] = [
    (["num_hidden_layers", "num_layers", "n_layers", "n_layer"], Bound(least: 1, most: 4096)),
    (["hidden_size", "d_model", "n_embd"], Bound(least: 1, most: 1 << 20)),
    (
        [
            "num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "n_kv_heads",
        ], Bound(least: 1, most: 1 << 16, loose: true)
    ),
    (["head_dim"], Bound(least: 0, most: 1 << 16, loose: true)),
    (["intermediate_size", "moe_intermediate_size"], Bound(least: 0, most: 1 << 24, loose: true)),
    (
        ["num_experts", "num_local_experts", "n_routed_experts"],
        Bound(least: 0, most: 1 << 16, loose: true)
    ),
    (["vocab_size"], Bound(least: 1, most: 1 << 26)),
]

/// Entries that hold a language model's own settings inside those of a larger model.
private let nestedConfigurations = ["text_config", "llm_config", "language_config"]

/// The folder's config.json, with plausible numbers.
func readConfiguration(_ folder: Folder) throws(FormatError) -> JSONObject {
    guard folder.names.contains("config.json") else {
        let gguf = folder.names.first { $0.lowercased().hasSuffix(".gguf") }
        let reason =
            gguf.map { "this is no folder of MLX's: open \($0) itself" }
            ?? "this is no model folder"
        throw FormatError(
            .model,
            file: folder.path,
            field: "config.json",
            reason: "missing: \(reason)"
        )
    }
    let path = try folder.member("config.json")
    let config = try JSON.readObject(path, limit: JSON.Limit.config)
    let type = config["model_type"] ?? .null
    guard let name = type.string, isModelType(name) else {
        let reason = "\(show(type)): the name of an architecture expected, like \"llama\""
        throw FormatError(.model, file: path, field: "model_type", reason: reason)
    }
    try checkNumbers(path, "", config)
    for key in nestedConfigurations {
        guard let nested = config[key], nested != .null else { continue }
        guard case .object(let inner) = nested else {
            let reason = "\(show(nested)): an object expected"
            throw FormatError(.model, file: path, field: key, reason: reason)
        }
        try checkNumbers(path, "\(key).", inner)
    }
    return config
}

/// Refuses sizes that no model has.
private func checkNumbers(
    _ path: String,
    _ prefix: String,
    _ config: JSONObject
) throws(FormatError) {
    for (keys, bound) in bounds {
        for key in keys {
            guard let value = config[key] else { continue }
            var values = [value]
            if bound.loose, case .array(let items) = value, items.count <= 4096 {
                values = items
            }
            for number in values where !(bound.loose && number == .null) {
                guard let found = number.int, found >= bound.least, found <= bound.most else {
                    let reason = "implausible model: \(show(number))"
                    let limits = "an integer from \(bound.least) to \(bound.most) expected"
                    throw FormatError(
                        .model,
                        file: path,
                        field: prefix + key,
                        reason: "\(reason), \(limits)"
                    )
                }
            }
        }
    }
}

/// Refuses a folder that wants its own Python code run, unless it is trusted.
///
/// Nothing here runs any; but what such a model computes is not what its settings say.
func refuseCode(
    _ folder: Folder,
    _ config: JSONObject,
    _ tokenizerConfig: JSONObject?,
    trusted: Bool
) throws(FormatError) {
    for (name, settings) in [("config.json", config), ("tokenizer_config.json", tokenizerConfig)] {
        let path = "\(folder.path)/\(name)"
        let found = [
            ("auto_map", try autoMapFiles(path, settings?["auto_map"])),
            ("model_file", try modelFile(folder, path, settings?["model_file"])),
        ]
        for (key, code) in found where !code.isEmpty && !trusted {
            let reason = "the model wants to run its own code (\(code.joined(separator: ", ")))"
            let hint = "read it, and give --trust-remote-code if you trust it"
            throw FormatError(.model, file: path, field: key, reason: "\(reason); \(hint)")
        }
    }
}

/// The Python files that an `auto_map` names: {"AutoModel": "repository--module.Class"}.
private func autoMapFiles(_ path: String, _ autoMap: JSON?) throws(FormatError) -> [String] {
    guard let autoMap, autoMap != .null else { return [] }
    // A tokenizer's entry is a pair: slow and fast class, either may be null.
    let values = autoMap.object?.members.map(\.value) ?? [autoMap]
    var files: Set<String> = []
    for value in values.flatMap({ $0.array ?? [$0] }) where value != .null {
        guard let name = value.string else {
            let reason = "\(show(autoMap)): class names expected"
            throw FormatError(.model, file: path, field: "auto_map", reason: reason)
        }
        let module = name.lastIndex(of: ".").map { name[..<$0] } ?? name[...]
        files.insert(
            module.split(separator: ".", omittingEmptySubsequences: false)
                .joined(separator: "/") + ".py"
        )
    }
    return files.sorted()
}

/// The Python file that mlx-lm's `model_file` names.
private func modelFile(
    _ folder: Folder,
    _ path: String,
    _ value: JSON?
) throws(FormatError) -> [String] {
    guard let value, value != .null else { return [] }
    guard let name = value.string else {
        let reason = "\(show(value)): a file name expected"
        throw FormatError(.model, file: path, field: "model_file", reason: reason)
    }
    _ = try folder.member(name, namedBy: path, field: "model_file")
    return [name]
}

/// Letters, digits and underscores, in words joined by single dots or hyphens.
private func isModelType(_ name: String) -> Bool {
    let words = name.split(omittingEmptySubsequences: false) { $0 == "." || $0 == "-" }
    return words.allSatisfy { word in
        !word.isEmpty
            && word.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
    }
}
