/// `mlxquant.json` beside the weights: what made a folder, and what its files should be.
public struct Manifest: Sendable {
    /// A file of the folder.
    public struct File: Sendable {
        /// The file's name, relative to the folder.
        public let name: String
        /// The file's size in bytes; nil where the manifest does not say.
        public let bytes: Int?
        /// The file's SHA-256, 64 lower-case hexadecimal digits; nil where the manifest does not say.
        public let sha256: String?
    }

    /// The manifest's own name in the folder.
    public static let fileName = "mlxquant.json"

    /// All that the manifest holds: source, request, plan, versions, files.
    public let content: JSONObject
    /// The files that it lists, in its order, without itself.
    public let files: [File]

    /// The mlxquant that made the model.
    public var version: String? {
        content["versions"]?["mlxquant"]?.string
    }

    /// The name of the model that this one was made from.
    public var source: String? {
        content["source"]?["name"]?.string
    }

    init(_ content: JSONObject) {
        self.content = content
        files = (content["files"]?.object?.members ?? []).compactMap { member in
            guard case .object(let entry) = member.value, member.name != Self.fileName else {
                return nil
            }
            let hash = entry["sha256"]?.string.flatMap { isSHA256($0) ? $0 : nil }
            return File(name: member.name, bytes: entry["bytes"]?.int, sha256: hash)
        }
    }
}

private func isSHA256(_ text: String) -> Bool {
    text.utf8.count == 64
        && text.utf8.allSatisfy { byte in
            (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
        }
}
