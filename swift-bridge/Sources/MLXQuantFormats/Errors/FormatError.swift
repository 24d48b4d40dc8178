/// What is wrong with a file or a model, in one line: `file: field @offset: reason`.
///
/// Files come from strangers, so this is the only error that the readers throw: no input traps, and
/// none makes a reader allocate more than the file's own size justifies.
public struct FormatError: Error, Sendable, Hashable {
    /// What kind of thing is to blame.
    public enum Kind: Sendable, Hashable {
        /// A file's bytes are not what they claim to be, or the file cannot be read.
        case file
        /// The parts of a model contradict each other, or one is missing.
        case model
        /// What was asked for cannot be had of this model: rows that are not there, a buffer of
        /// another size, a format that nobody knows.
        case request
    }

    /// What kind of thing is to blame.
    public let kind: Kind
    /// The file's path, or the folder's; empty where the request itself is wrong.
    public let file: String
    /// The part of it that is wrong, such as `header length` or `tensor 'lm_head.weight'`.
    public let field: String
    /// The byte in the file where that part stands, if a single place is to blame.
    public let offset: Int?
    /// What is wrong and, where it helps, the value, the limit and what to do next.
    public let reason: String

    /// An error; see the properties of the same names.
    public init(
        _ kind: Kind,
        file: String = "",
        field: String,
        offset: Int? = nil,
        reason: String
    ) {
        self.kind = kind
        self.file = file
        self.field = field
        self.offset = offset
        self.reason = reason
    }
}

extension FormatError: CustomStringConvertible {
    /// `file: field @offset: reason`: one line, control characters escaped, at most 600 characters.
    public var description: String {
        let place = offset.map { "\(field) @\($0)" } ?? field
        return oneLine(file.isEmpty ? "\(place): \(reason)" : "\(file): \(place): \(reason)")
    }
}
