/// Why a chat template could not be rendered.
public struct TemplateError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What kind of thing went wrong.
    public enum Kind: Sendable, Hashable {
        /// The template is not what this renderer reads.
        case syntax
        /// The template asked for what is not there, or cannot be.
        case failed
        /// The template itself called `raise_exception`: it does not take this conversation.
        case refused
        /// The template took more steps, text or depth than any conversation needs.
        case budget
    }

    /// What kind of thing went wrong.
    public let kind: Kind
    /// What exactly, in one line.
    public let reason: String
    /// Where in the template, from 1; nil where no single place is to blame.
    public let line: Int?

    /// `chat template, line 7: reason`.
    public var description: String {
        "chat template" + (line.map { ", line \($0)" } ?? "") + ": \(reason)"
    }
}
