import MLXQuantFormats

/// A model at work on one text: what it has seen stays in its cache.
///
/// ```swift
/// let model = try LanguageModel("books-4bit")
/// let session = GenerationSession(model)
/// for try await token in session.generate("The old house stood on the hill.") {
///     print(token.text, terminator: "")
/// }
/// ```
///
/// What a prompt has in common with what the session has seen is not computed again: a conversation
/// costs its new turns. A session makes one text at a time; a generation that begins ends the one
/// before it.
public actor GenerationSession {
    /// What to go on from.
    enum Prompt: Sendable {
        case text(String)
        case tokens([Int])
        case messages([ChatMessage])
    }

    /// The model that computes; sessions may share it.
    public nonisolated let model: LanguageModel

    private let cache: KeyValueCache
    /// What the cache holds.
    private var seen: [Int] = []
    /// The number of the generation at work.
    private var run = 0
    private var state: State?

    /// A generation at work.
    private struct State {
        var options: GenerationOptions
        var sampler: Sampler
        var detokenizer: Detokenizer
        /// Tokens that the model has not seen yet.
        var waiting: [Int]
        var generated = 0
    }

    /// A session that has seen nothing.
    ///
    /// - Parameter model: what computes; several sessions may share it.
    public init(_ model: LanguageModel) {
        self.model = model
        cache = model.makeCache()
    }

    /// Goes on from a text as it is, without the model's chat template.
    ///
    /// - Parameters:
    ///   - text: any text; what the tokenizer puts before a text is added, unless it is there.
    ///   - options: how to generate.
    /// - Returns: the tokens, as they come.
    public nonisolated func generate(
        _ text: String,
        options: GenerationOptions = GenerationOptions()
    ) -> TokenStream {
        TokenStream(session: self, prompt: .text(text), options: options)
    }

    /// Goes on from tokens.
    ///
    /// - Parameters:
    ///   - tokens: ids, at least one.
    ///   - options: how to generate.
    /// - Returns: the tokens, as they come.
    public nonisolated func generate(
        tokens: [Int],
        options: GenerationOptions = GenerationOptions()
    ) -> TokenStream {
        TokenStream(session: self, prompt: .tokens(tokens), options: options)
    }

    /// Answers in a conversation, by the model's chat template.
    ///
    /// - Parameters:
    ///   - messages: all turns, the oldest first.
    ///   - options: how to generate.
    /// - Returns: the tokens of the answer, as they come.
    public nonisolated func reply(
        to messages: [ChatMessage],
        options: GenerationOptions = GenerationOptions()
    ) -> TokenStream {
        TokenStream(session: self, prompt: .messages(messages), options: options)
    }

    /// Forgets everything that was seen.
    public func reset() {
        run += 1
        state = nil
        seen = []
        cache.trim(to: 0)
    }

    /// Starts a generation; its number.
    func begin(
        _ prompt: Prompt,
        _ options: GenerationOptions
    ) throws(GenerationError) -> Int {
        try options.check()
        let tokens = try encode(prompt)
        guard !tokens.isEmpty else {
            throw .request("the prompt is empty: there is nothing to go on from")
        }
        run += 1
        let options = options.over(model.recommended)
        // The last token is computed in any case: its scores are wanted.
        var common = 0
        while common < min(seen.count, tokens.count - 1), seen[common] == tokens[common] {
            common += 1
        }
        seen.removeLast(seen.count - common)
        cache.trim(to: common)
        state = State(
            options: options,
            sampler: Sampler(options),
            detokenizer: model.tokenizer.detokenizer(),
            waiting: Array(tokens[common...])
        )
        return run
    }

    private func encode(_ prompt: Prompt) throws(GenerationError) -> [Int] {
        switch prompt {
        case .tokens(let tokens): return tokens
        case .text(let text): return try model.encode(text)
        case .messages(let messages): return try model.encode(messages)
        }
    }

    /// The next token of a generation; nil where it is over, or another one has begun.
    func step(_ number: Int) async throws(GenerationError) -> GeneratedToken? {
        guard number == run, var state else { return nil }
        var scores: [Float] = []
        while !state.waiting.isEmpty {
            if Task.isCancelled { return nil }
            let part = Array(state.waiting.prefix(state.options.prefillStep))
            do throws(FormatError) {
                scores = try model.logits(after: part, cache)
            } catch {
                self.state = nil
                throw .model(error)
            }
            state.waiting.removeFirst(part.count)
            seen += part
            self.state = state
        }
        let id = state.sampler.next(&scores, after: seen)
        state.generated += 1
        state.waiting = [id]
        let isEnd = model.endIDs.contains(id)
        let isLast = isEnd || state.generated == state.options.maxTokens
        var text = isEnd ? "" : state.detokenizer.append(id)
        if isLast { text += state.detokenizer.finish() }
        self.state = isLast ? nil : state
        return GeneratedToken(id: id, text: text, finish: isEnd ? .stop : isLast ? .length : nil)
    }
}
