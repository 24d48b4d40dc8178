/// What verifying a model found wrong.
public struct Problem: Sendable, Hashable {
    /// What kinds of problems there are.
    public enum Kind: String, Sendable, Hashable {
        /// A file's SHA-256 is not what the manifest says.
        case hash
        /// A file's size is not what the manifest says.
        case size
        /// A file that the manifest lists is not there.
        case missing
        /// A weight file that the manifest does not list, or lists without a SHA-256.
        case unlisted
        /// A file cannot be read, or the manifest names one outside of the folder.
        case unreadable
    }

    /// What kind of problem this is.
    public let kind: Kind
    /// The file's name, relative to the folder.
    public let file: String
    /// What is wrong, with both values.
    public let message: String
}

extension Problem: CustomStringConvertible {
    /// `file: message`, on one line, control characters escaped.
    public var description: String {
        oneLine("\(file): \(message)")
    }
}

extension ModelFolder {
    /// Reads every file that the manifest lists and compares size and SHA-256.
    ///
    /// - Parameter progress: called before a file is read with its name and its size in bytes.
    /// - Returns: what is wrong; nothing if every weight file is what mlxquant wrote.
    /// - Throws: ``FormatError`` if there is no manifest, or it cannot be read.
    public func verify(
        progress: (_ file: String, _ bytes: Int) -> Void = { _, _ in }
    ) throws(FormatError) -> [Problem] {
        try MLXQuantFormats.verify(try Folder(path), manifest, files.map(\.file), progress)
    }
}

/// Reads every file that a folder's manifest lists; `weights` are the files that it must list.
private func verify(
    _ folder: Folder,
    _ manifest: Manifest?,
    _ weights: [MappedFile],
    _ progress: (String, Int) -> Void
) throws(FormatError) -> [Problem] {
    guard let manifest else {
        let reason = "there is none that can be read: only what mlxquant wrote can be verified"
        throw FormatError(.model, file: folder.path, field: Manifest.fileName, reason: reason)
    }
    var problems: [Problem] = []
    var hashed: Set<String> = []
    for file in manifest.files {
        if file.sha256 != nil {
            hashed.insert(file.name)
        }
        if let problem = check(file, in: folder, progress) {
            problems.append(problem)
        }
    }
    for file in weights where !hashed.contains(file.name) {
        let message = "the manifest has no SHA-256 of it"
        problems.append(Problem(kind: .unlisted, file: file.name, message: message))
    }
    return problems
}

/// What is wrong with a file of the manifest.
private func check(
    _ file: Manifest.File,
    in folder: Folder,
    _ progress: (String, Int) -> Void
) -> Problem? {
    func problem(_ kind: Problem.Kind, _ message: String) -> Problem {
        Problem(kind: kind, file: file.name, message: message)
    }
    do throws(FormatError) {
        let path = try folder.member(file.name, namedBy: Manifest.fileName, field: "files")
        guard kindOfPath(path) == .file, let size = sizeOfPath(path) else {
            return problem(.missing, "listed in the manifest, and missing")
        }
        if let wanted = file.bytes, wanted != size {
            return problem(.size, "\(size) bytes, the manifest says \(wanted)")
        }
        guard let wanted = file.sha256 else { return nil }
        progress(file.name, size)
        let found = try SHA256Digest.of(file: path)
        return found == wanted
            ? nil : problem(.hash, "its SHA-256 is \(found), the manifest says \(wanted)")
    } catch {
        return problem(.unreadable, error.reason)
    }
}

extension Model {
    /// As ``ModelFolder/verify(progress:)``.
    ///
    /// - Parameter progress: called before a file is read with its name and its size in bytes.
    /// - Returns: what is wrong.
    /// - Throws: ``FormatError`` if this is no folder, or it has no manifest.
    public func verify(
        progress: (_ file: String, _ bytes: Int) -> Void = { _, _ in }
    ) throws(FormatError) -> [Problem] {
        switch container {
        case .folder(let folder): return try folder.verify(progress: progress)
        case .gguf(let model) where kindOfPath(path) == .folder:
            let folder = try Folder(path)
            let files = model.parts.map(\.file)
            return try MLXQuantFormats.verify(folder, readManifest(folder, []).0, files, progress)
        case .gguf, .safetensors:
            let reason = "a single file has none to be verified against; give a model folder"
            throw FormatError(.model, file: path, field: Manifest.fileName, reason: reason)
        }
    }
}
