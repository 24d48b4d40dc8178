/// A GGUF model: one file, or the parts of a split one (`NAME-00001-of-00003.gguf` and its kin).
///
/// Each part is a GGUF file with tensors of its own and these keys; the first one has all others too.
///
///     split.no              its place, from 0
///     split.count           parts in all
///     split.tensors.count   tensors in all
public struct GGUFModel: Sendable {
    /// The model's files in order; one where it is not split.
    public let parts: [GGUFFile]
    /// The tensors of all parts, in order.
    public let tensors: [GGUFTensor]
    private let places: [String: Int]

    /// Opens a model through its file, or through any part of it.
    ///
    /// - Parameter path: of the file.
    /// - Throws: ``FormatError`` if a part is missing, doubled, at another part's place or of
    ///   another model (the error's `file` is that part), or if one of them is broken.
    public init(_ path: String) throws(FormatError) {
        self.init(parts: try openSplit(path))
    }

    /// A model of files that are open, and belong together.
    init(parts: [GGUFFile]) {
        self.parts = parts
        tensors = parts.flatMap(\.tensors)
        places = Dictionary(uniqueKeysWithValues: tensors.enumerated().map { ($1.name, $0) })
    }

    /// The metadata of the model: those of the first part.
    public var metadata: [String: GGUFValue] {
        parts[0].metadata
    }

    /// The value of a key; nil where there is none.
    public subscript(_ key: String) -> GGUFValue? {
        parts[0].metadata[key]
    }

    /// The tensor of that name; nil where there is none.
    public func tensor(_ name: String) -> GGUFTensor? {
        places[name].map { tensors[$0] }
    }
}

/// The files of all parts of a model, in order.
private func openSplit(_ path: String) throws(FormatError) -> [GGUFFile] {
    let named = PartName(lastComponent(of: path))
    let opened = try GGUFFile(path)
    let count = opened["split.count"] == nil ? 1 : try number(opened, "split.count")
    if (named?.count ?? 1) <= 1 && count <= 1 {
        return [opened]
    }
    guard let named, named.count == count else {
        if opened["split.count"] == nil {
            let reason = "missing, though the file is named as one of \(named?.count ?? 1)"
            throw opened.fail("split.count", "\(reason); give it another name")
        }
        let expected = named.map { "its name says it is one of \($0.count)" }
        let reason = expected ?? "its name does not say which"
        let remedy = "give it the name it was made with"
        throw opened.fail("split.count", "this is a part of \(count), but \(reason); \(remedy)")
    }
    let folder = String(path.dropLast(lastComponent(of: path).count))
    let siblings = (1...count).map { folder + named.part($0) }
    for (index, sibling) in siblings.enumerated() where kindOfPath(sibling) == nil {
        let reason = "part \(index + 1) of \(count) is missing; put it beside the others"
        throw FormatError(.file, file: sibling, field: "file", reason: reason)
    }
    var parts: [GGUFFile] = []
    for sibling in siblings {
        parts.append(sibling == path ? opened : try GGUFFile(sibling))
    }
    try check(parts)
    return parts
}

/// Refuses the first part that does not belong where it is.
private func check(_ parts: [GGUFFile]) throws(FormatError) {
    let count = parts.count
    let total = try number(parts[0], "split.tensors.count")
    let architecture = parts[0]["general.architecture"]?.string
    var owners: [String: MappedFile] = [:]
    for (index, part) in parts.enumerated() {
        for (key, wanted, what) in [
            ("split.count", count, "another model's"),
            ("split.no", index, "doubled or shuffled"),
            ("split.tensors.count", total, "another model's"),
        ] {
            let found = try number(part, key)
            guard found == wanted else {
                let place = "\(found) in part \(index + 1) of \(count), \(wanted) expected"
                throw part.fail(key, "\(place): this part is \(what); download it again")
            }
        }
        if let own = part["general.architecture"], own.string != architecture {
            let names = [own.string ?? own.kind, architecture ?? "nothing"].map { quote($0) }
            let reason = "\(names[0]), but \(names[1]) in part 1: this part is another model's"
            throw part.fail("general.architecture", "\(reason); download it again")
        }
        for tensor in part.tensors {
            if let owner = owners.updateValue(part.file, forKey: tensor.name) {
                let reason = "also in \(owner.name): this part is doubled or another model's"
                throw FormatError(
                    .file,
                    file: part.file.path,
                    field: "tensor \(quote(tensor.name))",
                    offset: tensor.region.range.lowerBound,
                    reason: "\(reason); download it again"
                )
            }
        }
    }
    guard owners.count == total else {
        let reason = "\(total), but the \(count) parts hold \(owners.count)"
        let remedy = "a part is another model's; download them again"
        throw parts[count - 1].fail("split.tensors.count", "\(reason): \(remedy)")
    }
}

/// The integer of a key.
private func number(_ part: GGUFFile, _ key: String) throws(FormatError) -> Int {
    guard let found = part[key]?.int else {
        let what = part[key].map { "of type \($0.kind)" } ?? "missing"
        throw part.fail(key, "\(what), an integer expected: this is no part of a split model")
    }
    return found
}

/// The name of a part: `PREFIX-00001-of-00003.gguf`.
struct PartName {
    let prefix: String
    let count: Int

    init?(_ name: String) {
        let tail = Array(name.utf8.suffix(20))
        let pattern = Array("-00000-of-00000.gguf".utf8)
        guard tail.count == pattern.count,
            zip(tail, pattern).allSatisfy({ byte, form in
                form == UInt8(ascii: "0")
                    ? (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) : byte == form
            }),
            let count = Int(String(decoding: tail[10..<15], as: UTF8.self))
        else { return nil }
        prefix = String(decoding: name.utf8.dropLast(20), as: UTF8.self)
        self.count = count
    }

    func part(_ number: Int) -> String {
        func digits(_ number: Int) -> String {
            let text = String(number)
            return String(repeating: "0", count: max(0, 5 - text.utf8.count)) + text
        }
        return "\(prefix)-\(digits(number))-of-\(digits(count)).gguf"
    }
}
