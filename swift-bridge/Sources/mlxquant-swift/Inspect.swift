import MLXQuantFormats

extension Command {
    /// `inspect`: what a model on disk is.
    static let inspect = Command(
        name: "inspect",
        summary: "what it is, from its headers",
        description: """
            Shows a model's settings, formats and sizes, and of a GGUF file its metadata. No weight is
            read. MODEL is a folder, a GGUF file (of a split model, any part) or a safetensors file.
            """,
        switches: [.tensors, .trustRemoteCode]
    ) { (arguments) throws(FormatError) in
        let model = try Model(
            arguments.path,
            trustRemoteCode: arguments.has(.trustRemoteCode)
        )
        printPairs(overview(of: model))
        printFormats(model.weights)
        var notes: [String] = []
        switch model.container {
        case .folder(let folder): notes = folder.notes
        case .gguf(let gguf):
            printMetadata(gguf)
            notes = problems(of: gguf)
        case .safetensors: break
        }
        if arguments.has(.tensors) {
            printTensors(model.weights)
        }
        printList("Notes", notes)
        return 0
    }
}

extension Command.Switch {
    fileprivate static let tensors = Command.Switch(
        name: "--tensors",
        meaning: "list every tensor: name, shape, format, size"
    )
}

/// Names and values at the top.
private func overview(of model: Model) -> [(String, String)] {
    var rows = [("model", safe(model.path))]
    let bytes = model.weights.reduce(0) { $0 + $1.bytes }
    let count = model.weights.reduce(0) { $0 + $1.count }
    var files = 1
    switch model.container {
    case .folder(let folder):
        files = folder.files.count
        rows.append(("architecture", safe(folder.config["model_type"]?.string ?? "")))
        if let scheme = folder.quantization?.scheme {
            let own = folder.quantization?.layers.count { $0.entry != .standard } ?? 0
            let layers = own == 1 ? "1 layer has its own" : "\(grouped(own)) layers have their own"
            let entries = own == 0 ? "" : "; \(layers)"
            rows.append(("quantization", scheme.formatName + entries))
        }
        if let manifest = folder.manifest {
            let version = safe(manifest.version ?? "?")
            let source = safe(manifest.source ?? "?")
            rows.append(("made by", "mlxquant \(version) from \(source)"))
        }
    case .gguf(let gguf):
        files = gguf.parts.count
        let name = gguf["general.architecture"]?.string ?? "not said"
        rows.append(("architecture", safe(name)))
        rows.append(("version", "GGUF \(gguf.parts[0].version)"))
    case .safetensors(let file):
        for (key, value) in file.metadata.sorted(by: { $0.key < $1.key }) {
            rows.append((safe(key), safe(value)))
        }
    }
    rows.append(("parameters", grouped(count)))
    rows.append(("size", "\(bytesText(bytes)) in \(files) file\(files == 1 ? "" : "s")"))
    if count > 0 {
        rows.append(("bits per weight", decimal(8 * Double(bytes) / Double(count), 3)))
    }
    return rows
}

/// A row for each format.
private func printFormats(_ weights: [Weight]) {
    var found: [String: (tensors: Int, weights: Int, bytes: Int)] = [:]
    for weight in weights {
        let old = found[weight.format.name] ?? (0, 0, 0)
        found[weight.format.name] = (
            old.tensors + 1, old.weights + weight.count, old.bytes + weight.bytes
        )
    }
    guard !found.isEmpty else { return }
    let rows = found.sorted { ($1.value.bytes, $0.key) < ($0.value.bytes, $1.key) }
    print()
    printTable(
        ["format", "tensors", "weights", "size", "bpw"],
        rows.map { name, sums in
            [
                name, grouped(sums.tensors), grouped(sums.weights), bytesText(sums.bytes),
                sums.weights == 0 ? "-" : decimal(8 * Double(sums.bytes) / Double(sums.weights), 3),
            ]
        },
        right: [1, 2, 3, 4]
    )
}

private func printTensors(_ weights: [Weight]) {
    print()
    printTable(
        ["tensor", "shape", "format", "size"],
        weights.map { weight in
            let shape = weight.shape.map(String.init).joined(separator: "x")
            return [
                safe(weight.name), shape.isEmpty ? "scalar" : shape, weight.format.name,
                bytesText(weight.bytes),
            ]
        },
        right: [3]
    )
}

private func printMetadata(_ model: GGUFModel) {
    let file = model.parts[0]
    guard !file.keys.isEmpty else { return }
    print()
    printTable(
        ["key", "type", "value"],
        file.keys.compactMap { key in
            file[key].map { [safe(key), $0.kind, safe(text(of: $0))] }
        },
        right: []
    )
}

/// A value in a line: long texts cut, of arrays the first items.
private func text(of value: GGUFValue) -> String {
    func short(_ text: String, _ limit: Int) -> String {
        text.count <= limit ? text : "\(text.prefix(limit))…"
    }
    if value.type == .array {
        let shown = 6
        let first = value.first(shown).map { short($0, 16) }.joined(separator: ", ")
        return "\(grouped(value.count)): \(first)\(value.count > shown ? ", …" : "")"
    }
    if let text = value.string {
        return short(text, 60)
    }
    return value.bool.map { $0 ? "true" : "false" } ?? value.int.map(String.init)
        ?? value.double.map { String(Float($0)) } ?? ""
}

/// What is implausible in a GGUF file.
private func problems(of model: GGUFModel) -> [String] {
    var found: [String] = []
    do throws(FormatError) {
        // an adapter or an importance matrix has no layers of its own
        if ["model", nil].contains(model["general.type"]?.string) {
            try model.checkModel()
        }
    } catch {
        found.append(error.description)
    }
    do throws(FormatError) {
        try model.checkVocabulary()
    } catch {
        found.append(error.description)
    }
    return found
}
