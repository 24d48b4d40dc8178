// MLX's packed weights: what config.json's `quantization` says, held against the stored arrays.
//
//     P.weight   U32 [..., n, k · bits / 32]       codes, packed
//     P.scales   [..., n, k / group_size]          affine: F16, BF16 or F32; the other modes: U8
//     P.biases   as P.scales                       affine only
//
// Which format a layer P has is decided as mlx-lm decides it: the entry `quantization[P]` if there is
// one, else its scales where they can only mean one mode, else the top-level group size, bits and mode.

/// How MLX packs a layer's weight: an entry of config.json's `quantization`.
public struct QuantizationScheme: Sendable, Hashable {
    /// MLX's name of the family of formats.
    public enum Mode: String, Sendable, Hashable, CaseIterable {
        /// A scale and a bias for every group.
        case affine
        /// 4-bit floats, a power of two for every 32.
        case mxfp4
        /// 8-bit floats, a power of two for every 32.
        case mxfp8
        /// 4-bit floats, an 8-bit float for every 16.
        case nvfp4
    }

    /// How many consecutive weights of a row share a scale.
    public let groupSize: Int
    /// The width of a code in bits.
    public let bits: Int
    /// The family of formats.
    public let mode: Mode

    /// What the format is called: `affine4-g64`, `mxfp4`, ….
    public var formatName: String {
        mode == .affine ? "affine\(bits)-g\(groupSize)" : mode.rawValue
    }

    /// Weights in a row of so many packed words and scales; nil if they do not fit.
    func width(words: Int, groups: Int) -> Int? {
        let (bits32, first) = words.multipliedReportingOverflow(by: 32)
        let (width, second) = groups.multipliedReportingOverflow(by: groupSize)
        guard !first, !second, bits32 % bits == 0, bits32 / bits == width else { return nil }
        return width
    }

    /// For messages.
    var described: String {
        "\(bits) bits in groups of \(groupSize) (\(mode.rawValue))"
    }
}

extension QuantizationScheme.Mode {
    /// What is meant where nothing is said.
    var standard: (groupSize: Int, bits: Int) {
        switch self {
        case .affine: (64, 4)
        case .mxfp4: (32, 4)
        case .mxfp8: (32, 8)
        case .nvfp4: (16, 4)
        }
    }

    var groupSizes: [Int] {
        self == .affine ? [32, 64, 128] : [standard.groupSize]
    }

    var widths: [Int] {
        self == .affine ? [1, 2, 3, 4, 5, 6, 8] : [standard.bits]
    }

    /// Every scheme of this mode.
    var schemes: [QuantizationScheme] {
        widths.flatMap { bits in
            groupSizes.map { QuantizationScheme(groupSize: $0, bits: bits, mode: self) }
        }
    }
}

/// The MLX quantization that a config.json declares.
public struct Quantization: Sendable {
    /// What an entry says of a layer.
    public enum Entry: Sendable, Hashable {
        /// An object: packed in this way.
        case packed(QuantizationScheme)
        /// `true`: packed as the top level says.
        case standard
        /// `false` or `null`: not packed.
        case none
    }

    /// The top level: of every packed layer without an entry of its own.
    public let scheme: QuantizationScheme
    /// The entries by layer, in the order of the file.
    public let layers: [(name: String, entry: Entry)]

    let entries: [String: (entry: Entry, json: JSON)]
    /// What was seen and changes nothing.
    let note: String?

    private static let ownKeys = ["group_size", "bits", "mode"]
    /// What other writers leave beside MLX's keys, and mlx-lm does not look at.
    private static let foreignKeys = ["quant_method", "linear_class", "quantization_mode"]
    private static let flags = ["global_scale", "quantize_input"]

    /// What the config.json at `path` declares; nil where it declares nothing of MLX's.
    init?(_ path: String, _ config: JSONObject) throws(FormatError) {
        func bad(_ reason: String) -> FormatError {
            let reason = "bad quantization: \(reason)"
            return FormatError(.model, file: path, field: "quantization", reason: reason)
        }
        // One of another tool has a `quant_method`.
        let other = config["quantization_config"].flatMap { value in
            value["bits"] != nil && value["quant_method"] == nil ? value : nil
        }
        var main = config["quantization"].flatMap { $0 == .null ? nil : $0 }
        var note: String?
        if main == nil, let other {
            main = other
            note = "config.json: quantization is missing, quantization_config is used"
        } else if let main, let other, main != other {
            throw conflict(path, main, other)
        }
        guard let main else { return nil }
        guard let object = main.object else { throw bad("\(show(main)), an object expected") }
        for key in ["group_size", "bits"] where object[key] == nil {
            throw bad("\(key) is missing")
        }
        let top = object.members.filter { Self.ownKeys.contains($0.name) }
        scheme = try Self.scheme(path, "quantization", top, top: true)
        var layers: [(name: String, entry: Entry)] = []
        var entries: [String: (entry: Entry, json: JSON)] = [:]
        for member in object.members where !Self.isSetting(member) {
            let field = "quantization[\(quote(member.name))]"
            let entry: Entry
            switch member.value {
            case .object(let inner):
                entry = .packed(try Self.scheme(path, field, inner.members, top: false))
            case .bool(let value): entry = value ? .standard : .none
            case .null: entry = .none
            default:
                let reason = "\(show(member.value)), an object, true or false expected"
                throw FormatError(
                    .model,
                    file: path,
                    field: field,
                    reason: "bad quantization: \(reason)"
                )
            }
            layers.append((member.name, entry))
            entries[member.name] = (entry, member.value)
        }
        self.layers = layers
        self.entries = entries
        self.note = note
    }

    /// Whether a member is the quantization's own, and no layer's.
    private static func isSetting(_ member: JSONObject.Member) -> Bool {
        ownKeys.contains(member.name)
            || (foreignKeys.contains(member.name) && member.value.string != nil)
    }

    /// An entry's scheme, with MLX's defaults for what it does not say.
    private static func scheme(
        _ path: String,
        _ field: String,
        _ members: [JSONObject.Member],
        top: Bool
    ) throws(FormatError) -> QuantizationScheme {
        func bad(_ reason: String) -> FormatError {
            let reason = "bad quantization: \(reason)"
            return FormatError(.model, file: path, field: field, reason: reason)
        }
        let said = members.first { $0.name == "mode" }?.value ?? .string("affine")
        guard let mode = said.string.flatMap(QuantizationScheme.Mode.init(rawValue:)) else {
            let modes = QuantizationScheme.Mode.allCases.map(\.rawValue).joined(separator: ", ")
            throw bad("mode \(show(said)), one of \(modes) expected")
        }
        for member in members where !ownKeys.contains(member.name) {
            guard flags.contains(member.name), member.value.bool != nil else {
                throw bad("unknown \(quote(member.name)): \(show(member.value))")
            }
        }
        func number(_ key: String, _ standard: Int, _ allowed: [Int]) throws(FormatError) -> Int {
            let value = members.first { $0.name == key }?.value
            // mlx_lm.convert writes null into a layer's entry where it was asked for the default.
            guard let value, top || value != .null else { return standard }
            guard let found = value.int, allowed.contains(found) else {
                let choices = allowed.map(String.init).joined(separator: " ")
                throw bad("\(key) \(show(value)), \(mode.rawValue) has \(choices)")
            }
            return found
        }
        let standard = mode.standard
        return QuantizationScheme(
            groupSize: try number("group_size", standard.groupSize, mode.groupSizes),
            bits: try number("bits", standard.bits, mode.widths),
            mode: mode
        )
    }
}

/// `quantization` and `quantization_config` differ: where first, and both values.
private func conflict(_ path: String, _ main: JSON, _ other: JSON) -> FormatError {
    let mine = main.object.map(members) ?? ["quantization": main]
    let theirs = main.object == nil ? ["quantization": other] : other.object.map(members) ?? [:]
    let key = Set(mine.keys).union(theirs.keys).sorted().first { mine[$0] != theirs[$0] } ?? ""
    let values = [mine, theirs].map { $0[key].map { show($0) } ?? "nothing" }
    return FormatError(
        .model,
        file: path,
        field: "quantization[\(quote(key))]",
        reason: "conflict: \(values[0]), but quantization_config says \(values[1])"
    )
}

private func members(_ object: JSONObject) -> [String: JSON] {
    Dictionary(object.members.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
}
