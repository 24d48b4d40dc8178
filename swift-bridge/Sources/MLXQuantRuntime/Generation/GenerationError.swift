import MLXQuantFormats

/// Why text could not be generated.
public enum GenerationError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What was asked for cannot be: an option out of its range, an empty prompt.
    case request(String)
    /// The chat template did not render.
    case template(TemplateError)
    /// The model contradicts itself.
    case model(FormatError)

    /// What is wrong, in one line.
    public var description: String {
        switch self {
        case .request(let reason): reason
        case .template(let error): error.description
        case .model(let error): error.description
        }
    }
}
