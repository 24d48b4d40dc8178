// Whether what a GGUF file says of its model and its vocabulary can be true.
//
// The file itself was checked when it was opened; here its values are held against each other before
// anything is built or allocated from them. Key names:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; token types are llama.cpp's
// `llama_token_type`.

// Bounds beyond any model's.
private let maxLayers = 10_000
private let maxWidth = 1 << 24
private let maxContext = 1 << 40
private let maxTokens = 1 << 22

/// (key behind the architecture's name, least, most) of integers, where they are there.
private let integers: [(String, Int, Int)] = [
    ("context_length", 1, maxContext),
    ("feed_forward_length", 0, maxWidth),
    ("attention.head_count", 0, maxWidth),
    ("attention.head_count_kv", 0, maxWidth),
    ("attention.key_length", 1, maxWidth),
    ("attention.value_length", 1, maxWidth),
    ("rope.dimension_count", 0, maxWidth),
    ("vocab_size", 1, maxTokens),
    ("expert_count", 0, 1 << 16),
    ("expert_used_count", 0, 1 << 16),
]
private let floats = [
    "rope.freq_base", "rope.scaling.factor", "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
]

extension GGUFModel {
    /// Checks the numbers that a model's size follows from.
    ///
    /// - Throws: ``FormatError`` if no architecture is named, or the model is implausible: no layers
    ///   or more than there are tensors, no width, no heads, values of a wrong type.
    public func checkModel() throws(FormatError) {
        let first = parts[0]
        guard let name = first["general.architecture"]?.string, !name.isEmpty else {
            let reason = "missing: implausible model, its kind is not named"
            throw first.fail("general.architecture", reason)
        }
        let layers = try integer(first, "\(name).block_count", 1...maxLayers)
        _ = try integer(first, "\(name).embedding_length", 1...maxWidth)
        try checkLayers(first, "\(name).block_count", layers)
        for (key, least, most) in integers where first["\(name).\(key)"] != nil {
            try checkIntegers(first, "\(name).\(key)", least...most, layers)
        }
        let recurrent = first.keys.contains {
            $0.hasPrefix("\(name).ssm.") || $0.hasPrefix("\(name).wkv.")
        }
        let headsKey = "\(name).attention.head_count"
        if !recurrent, let heads = first[headsKey] {
            let counts = heads.ints ?? [heads.int ?? 0]
            guard counts.contains(where: { $0 != 0 }) else {
                throw first.fail(headsKey, "implausible model: 0 heads")
            }
        }
        for key in floats {
            guard let value = first["\(name).\(key)"] else { continue }
            let number = value.type == .f32 || value.type == .f64 ? value.double : nil
            guard let number, number.isFinite, number >= 0 else {
                throw first.fail("\(name).\(key)", "implausible model: \(shown(value))")
            }
        }
        let used = first["\(name).expert_used_count"].map(\.int) ?? 0
        let experts = first["\(name).expert_count"].map(\.int) ?? 0
        if let used, let experts, used > experts {
            let reason = "implausible model: \(used) experts a token of \(experts)"
            throw first.fail("\(name).expert_used_count", reason)
        }
    }

    private func checkLayers(_ file: GGUFFile, _ key: String, _ layers: Int) throws(FormatError) {
        if !tensors.isEmpty, layers > tensors.count {
            let reason = "implausible model: \(layers) layers, but \(tensors.count) tensors"
            throw file.fail(key, reason)
        }
        for tensor in tensors {
            if let layer = layerNumber(tensor.name), layer >= layers {
                let reason = "implausible model: \(layers) layers, but there is"
                throw file.fail(key, "\(reason) \(quote(tensor.name))")
            }
        }
    }
}

/// The number of a layer in a tensor's name, `blk.7.ffn_up.weight`; nil for what is none.
private func layerNumber(_ name: String) -> Int? {
    let pieces = name.split(separator: ".", omittingEmptySubsequences: false)
    guard pieces.count > 2, pieces[0] == "blk", (1...9).contains(pieces[1].utf8.count) else {
        return nil
    }
    return UInt(pieces[1]).flatMap { Int(exactly: $0) }
}

/// A plain integer in these bounds.
private func integer(
    _ file: GGUFFile,
    _ key: String,
    _ bounds: ClosedRange<Int>
) throws(FormatError) -> Int {
    guard let found = file[key]?.int, bounds.contains(found) else {
        let what = file[key].map(shown) ?? "missing"
        let limits = "\(bounds.lowerBound) to \(bounds.upperBound) expected"
        throw file.fail(key, "implausible model: \(what), \(limits)")
    }
    return found
}

/// An integer, or one for each layer.
private func checkIntegers(
    _ file: GGUFFile,
    _ key: String,
    _ bounds: ClosedRange<Int>,
    _ layers: Int
) throws(FormatError) {
    guard let value = file[key], value.type == .array else {
        _ = try integer(file, key, bounds)
        return
    }
    guard value.count >= layers else {
        throw file.fail(key, "implausible model: \(value.count) values for \(layers) layers")
    }
    let items = value.ints
    if let items, items.allSatisfy(bounds.contains) {
        return
    }
    let index = items?.firstIndex { !bounds.contains($0) } ?? 0
    let item =
        items.map { String($0[index]) } ?? value.strings.map { quote($0[index]) } ?? value.kind
    let reason = "implausible model: \(item) for layer \(index)"
    throw file.fail(key, "\(reason), \(bounds.lowerBound) to \(bounds.upperBound) expected")
}

/// A value in a message.
private func shown(_ value: GGUFValue) -> String {
    if let text = value.string {
        return quote(text, limit: 60)
    }
    if let number = value.int {
        return String(number)
    }
    if let number = value.double {
        return String(number)
    }
    return value.bool.map { $0 ? "true" : "false" } ?? value.kind
}
