/// A step of a generation.
public struct GeneratedToken: Sendable, Hashable {
    /// Why a generation ended.
    public enum Reason: String, Sendable, Hashable {
        /// The model said that it is done.
        case stop
        /// It took as many tokens as it was allowed.
        case length
    }

    /// The token's id.
    public let id: Int
    /// The text that is complete with it; empty where a character has only begun, and for the token
    /// that ends the text.
    public let text: String
    /// Why this token is the last; nil where it is not.
    public let finish: Reason?
}

/// The tokens of one generation, as they come: `for try await token in session.generate(…)`.
///
/// Nothing is computed before it is iterated, nor ahead of who iterates. Iterating it a second time
/// generates again. A cancelled task ends it after the token at hand.
public struct TokenStream: AsyncSequence, Sendable {
    /// A step of a generation.
    public typealias Element = GeneratedToken

    let session: GenerationSession
    let prompt: GenerationSession.Prompt
    let options: GenerationOptions

    /// Goes through one generation.
    public struct Iterator: AsyncIteratorProtocol {
        let stream: TokenStream
        private var run: Int?
        private var isDone = false

        init(_ stream: TokenStream) { self.stream = stream }

        /// The next token; nil where there is no more.
        ///
        /// - Throws: ``GenerationError`` if the options are out of their ranges, the prompt is empty,
        ///   the chat template does not render, or the model contradicts itself.
        public mutating func next() async throws(GenerationError) -> GeneratedToken? {
            if isDone || Task.isCancelled { return nil }
            let session = stream.session
            let current: Int
            if let run {
                current = run
            } else {
                current = try await session.begin(stream.prompt, stream.options)
                run = current
            }
            guard let token = try await session.step(current) else {
                isDone = true
                return nil
            }
            isDone = token.finish != nil
            return token
        }
    }

    /// Begins a generation; it computes nothing until its first token is asked for.
    public func makeAsyncIterator() -> Iterator { Iterator(self) }
}
