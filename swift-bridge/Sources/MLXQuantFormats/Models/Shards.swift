// The weight files of a model folder:
//
//     model.safetensors                  the weights, or
//     model-00001-of-0000N.safetensors   … in shards, with
//     model.safetensors.index.json       … {"weight_map": {tensor: shard}}

private let indexName = "model.safetensors.index.json"
private let singleName = "model.safetensors"

/// The weight files of a folder, opened and held against the index.
struct Shards {
    /// In order.
    var files: [SafetensorsFile] = []
    /// Every stored array, shard after shard, in the order of their bytes.
    var stored: [StoredTensor] = []
    /// What was seen and changes nothing.
    var notes: [String] = []

    private var places: [String: Int] = [:]

    /// Opens what the index names, or the files that are there.
    init(_ folder: Folder) throws(FormatError) {
        let found = try findShards(folder)
        notes = found.notes
        for path in found.paths {
            let file = try SafetensorsFile(path)
            files.append(file)
            try add(file)
        }
        guard !stored.isEmpty else {
            let reason = "holds no tensors"
            throw FormatError(.file, file: found.paths[0], field: "header", reason: reason)
        }
        try checkIndex(folder, found.weightMap)
    }

    /// The stored array of that name; nil where there is none.
    subscript(_ name: String) -> StoredTensor? {
        places[name].map { stored[$0] }
    }

    private mutating func add(_ file: SafetensorsFile) throws(FormatError) {
        for tensor in file.tensors {
            let field = "tensor \(quote(tensor.name))"
            if let other = self[tensor.name] {
                let reason = "is also in \(other.region.file.name): duplicate name"
                throw FormatError(.file, file: file.file.path, field: field, reason: reason)
            }
            guard mlxTypes.contains(tensor.type) else {
                let reason = "dtype \(tensor.type.rawValue) is not supported: MLX has no such type"
                throw FormatError(.file, file: file.file.path, field: field, reason: reason)
            }
            places[tensor.name] = stored.count
            stored.append(tensor)
        }
    }

    /// Refuses an index that names tensors where they are not; notes tensors that it leaves out.
    private mutating func checkIndex(
        _ folder: Folder,
        _ weightMap: [(tensor: String, shard: String)]
    ) throws(FormatError) {
        for (name, shard) in weightMap {
            let tensor = self[name]
            guard tensor?.region.file.path == "\(folder.path)/\(shard)" else {
                let place = tensor.map { "in \($0.region.file.name)" } ?? "in no shard"
                let reason = "conflict: says \(quote(shard)), but the tensor is \(place)"
                let field = "weight_map[\(quote(name))]"
                let path = "\(folder.path)/\(indexName)"
                throw FormatError(.model, file: path, field: field, reason: reason)
            }
        }
        guard !weightMap.isEmpty else { return }
        let named = Set(weightMap.map(\.tensor))
        let missing = stored.filter { !named.contains($0.name) }
        if let first = missing.first {
            let reason =
                "leaves out \(missing.count) tensors that its shards hold: \(first.name), …"
            notes.append("\(indexName) \(reason)")
        }
    }
}

/// The types that are read.
private let mlxTypes: Set<ElementType> = [
    .bool, .u8, .i8, .f8e4m3, .f8e5m2, .f8e8m0, .u16, .i16, .f16, .bf16, .u32, .i32, .f32, .u64,
    .i64,
    .f64, .c64,
]

/// What the index names, or the files that are there.
private func findShards(
    _ folder: Folder
) throws(FormatError) -> (
    weightMap: [(tensor: String, shard: String)], paths: [String], notes: [String]
) {
    let present = folder.names.filter { $0.hasSuffix(".safetensors") }
    var weightMap: [(tensor: String, shard: String)] = []
    let names: [String]
    let why: String
    if folder.names.contains(indexName) {
        weightMap = try readIndex(folder)
        names = Set(weightMap.map(\.shard)).sorted()
        why = "not in \(indexName)"
    } else if present.contains(singleName) {
        names = [singleName]
        why = "\(singleName) holds the model"
    } else {
        names = present.filter { $0.hasPrefix("model") }
        why = "not named model*"
        try checkComplete(folder, names)
    }
    guard !names.isEmpty else { throw withoutWeights(folder, present) }
    var notes = present.filter { !names.contains($0) }.map { "\($0) is ignored: \(why)" }
    if let pickle = folder.names.first(where: Folder.isPickle) {
        notes.append("\(pickle) is ignored: pickles can run code and are never opened")
    }
    var paths: [String] = []
    for name in names {
        guard let named = weightMap.first(where: { $0.shard == name }) else {
            paths.append(try folder.member(name))
            continue
        }
        let index = "\(folder.path)/\(indexName)"
        let path = try folder.member(name, namedBy: index, field: "weight_map")
        guard kindOfPath(path) != nil || linkTarget(path) != nil else {
            let reason = "\(quote(named.tensor)) is in \(quote(name)), which is missing"
            throw FormatError(
                .model,
                file: index,
                field: "weight_map",
                reason: "\(reason); download it again"
            )
        }
        paths.append(path)
    }
    return (weightMap, paths, notes)
}

/// The index's weight map: tensor to file, each a file of this folder.
private func readIndex(_ folder: Folder) throws(FormatError) -> [(tensor: String, shard: String)] {
    let path = try folder.member(indexName)
    func fail(_ field: String, _ reason: String) -> FormatError {
        FormatError(.model, file: path, field: field, reason: reason)
    }
    let found = try JSON.readObject(path, limit: JSON.Limit.index)["weight_map"]?.object
    guard let found, !found.members.isEmpty else {
        throw fail("weight_map", "an object of tensor names and file names expected")
    }
    var weightMap: [(tensor: String, shard: String)] = []
    for member in found.members {
        let field = "weight_map[\(quote(member.name))]"
        guard let name = member.value.string else {
            throw fail(field, "\(show(member.value)): a file name expected")
        }
        guard !Folder.isPickle(name) else {
            let reason = "\(quote(name)) is a pickle, which can run code and is never opened"
            throw fail(field, "\(reason); use a model with safetensors weights")
        }
        guard name.hasSuffix(".safetensors") else {
            throw fail(field, "\(quote(name)) is no .safetensors file of the model folder")
        }
        weightMap.append((member.name, name))
    }
    return weightMap
}

/// Refuses a set of shards with one missing, where their names tell how many there are.
private func checkComplete(_ folder: Folder, _ names: [String]) throws(FormatError) {
    for name in names {
        guard let shard = ShardName(name) else { continue }
        for number in 1...min(max(shard.count, 1), 100_000) {
            let wanted = shard.name(number)
            guard names.contains(wanted) else {
                let reason = "this shard is missing; download it again"
                throw FormatError(.model, file: folder.path, field: wanted, reason: reason)
            }
        }
        return
    }
}

/// The name of a shard: `STEM-00001-of-00003.safetensors`, with five or six digits.
private struct ShardName {
    let stem: String
    let digits: Int
    let count: Int

    init?(_ name: String) {
        let pieces = name.dropLast(".safetensors".count).split(
            separator: "-",
            omittingEmptySubsequences: false
        )
        guard name.hasPrefix("model"), pieces.count >= 4, pieces[pieces.count - 2] == "of",
            let last = pieces.last, (5...6).contains(last.utf8.count), let count = Int(last),
            let number = pieces.dropLast(2).last, (5...6).contains(number.utf8.count),
            Int(number) != nil
        else { return nil }
        stem = pieces.dropLast(3).joined(separator: "-")
        digits = last.utf8.count
        self.count = count
    }

    func name(_ number: Int) -> String {
        func padded(_ number: Int) -> String {
            let text = String(number)
            return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
        }
        return "\(stem)-\(padded(number))-of-\(padded(count)).safetensors"
    }
}

/// What is there instead of weights.
private func withoutWeights(_ folder: Folder, _ present: [String]) -> FormatError {
    if let pickle = folder.names.first(where: Folder.isPickle) {
        let reason = "pickled weights can run code and are never opened"
        return FormatError(
            .model,
            file: folder.path,
            field: pickle,
            reason: "\(reason); use a model with safetensors weights"
        )
    }
    let others = folder.names.filter {
        $0.lowercased().hasSuffix(".gguf") || $0.lowercased().hasSuffix(".npz")
    }
    let found = (present + others).first.map { "found only \($0)" } ?? "found none"
    return FormatError(
        .model,
        file: folder.path,
        field: "weights",
        reason: "model.safetensors or model-*.safetensors: \(found)"
    )
}
