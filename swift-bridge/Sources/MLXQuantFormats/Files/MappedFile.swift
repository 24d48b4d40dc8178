/// A file whose bytes are mapped into memory: opening reads nothing, and pages come as they are used.
///
/// A mapped file must not be changed or cut short while it is in use. Where another program truncates
/// it, reading the lost pages ends the process (SIGBUS), as with any mapped file.
public final class MappedFile: Sendable {
    /// The path, as the file was opened.
    public let path: String
    /// The file's size in bytes.
    public let size: Int

    // Immutable for as long as the object lives, and so safe to share.
    nonisolated(unsafe) private let base: UnsafeRawPointer?
    nonisolated(unsafe) private let mapping: UnsafeRawBufferPointer

    /// Maps a regular file.
    ///
    /// - Parameter path: of the file.
    /// - Throws: ``FormatError`` if it is missing, no regular file, or cannot be read.
    public init(_ path: String) throws(FormatError) {
        func fail(_ reason: String) -> FormatError {
            FormatError(.file, file: path, field: "file", reason: reason)
        }
        let descriptor: Int32
        let kind: PathKind
        switch openForReading(path) {
        case .success(let opened): (descriptor, kind, size) = opened
        case .failure(let problem): throw fail("cannot be opened: \(problem.text)")
        }
        defer { closeFile(descriptor) }
        switch kind {
        case .file: break
        case .folder: throw fail("this is a directory, not a file")
        case .other: throw fail("this is not a regular file")
        }
        self.path = path
        guard size > 0 else {
            base = nil
            mapping = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        switch mapFile(descriptor, size: size) {
        case .success(let mapped): base = mapped
        case .failure(let problem): throw fail("cannot be mapped: \(problem.text)")
        }
        mapping = UnsafeRawBufferPointer(start: base, count: size)
    }

    /// A copy of bytes under a file's name, which end where no memory is: a read beyond them traps.
    init(copying bytes: [UInt8], as path: String) throws(FormatError) {
        self.path = path
        size = bytes.count
        switch mapGuarded(bytes) {
        case .success(let mapped): (base, mapping) = mapped
        case .failure(let problem):
            throw FormatError(.file, file: path, field: "memory", reason: problem.text)
        }
    }

    deinit {
        if let start = mapping.baseAddress {
            unmapFile(start, size: mapping.count)
        }
    }

    /// The last component of the path.
    public var name: String {
        lastComponent(of: path)
    }

    /// Calls `body` with the file's bytes, which are valid for that call only.
    ///
    /// - Parameter body: what to do with them.
    /// - Returns: what `body` returns.
    /// - Throws: what `body` throws.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        defer { withExtendedLifetime(self) {} }
        return try body(UnsafeRawBufferPointer(start: base, count: size))
    }

    /// Says whether the bytes around those that are used will be wanted too; they are, at first.
    func advise(readAhead: Bool) {
        adviseFile(mapping, readAhead: readAhead)
    }

    /// The first bytes, at most `count`.
    func prefix(_ count: Int) -> [UInt8] {
        withUnsafeBytes { Array($0.prefix(count)) }
    }
}

/// A range of a file's bytes.
public struct FileRegion: Sendable {
    /// The file that these bytes are of.
    public let file: MappedFile
    /// Which of the file's bytes; always within it.
    public let range: Range<Int>

    /// A region that lies within its file.
    init(_ file: MappedFile, _ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= file.size)
        self.file = file
        self.range = range
    }

    /// How many bytes there are.
    public var count: Int {
        range.count
    }

    /// Calls `body` with the region's bytes, which are valid for that call only.
    ///
    /// - Parameter body: what to do with them.
    /// - Returns: what `body` returns.
    /// - Throws: what `body` throws.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try file.withUnsafeBytes { (bytes) throws(Failure) in
            try body(UnsafeRawBufferPointer(rebasing: bytes[range]))
        }
    }
}

/// What stands behind a path's last slash.
func lastComponent(of path: String) -> String {
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return path }
    return String(path[path.utf8.index(after: slash)...])
}
