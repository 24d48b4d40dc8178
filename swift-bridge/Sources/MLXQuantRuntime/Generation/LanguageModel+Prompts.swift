import MLXQuantFormats

extension LanguageModel {
    /// Whether the model comes with a chat template.
    public var hasChatTemplate: Bool { !tokenizer.chatTemplates.isEmpty }

    /// The ids of a text to go on from, with what the tokenizer puts before a text, unless it is
    /// there.
    ///
    /// - Parameter text: any text.
    /// - Returns: the ids.
    /// - Throws: ``GenerationError`` if the tokenizer fails.
    public func encode(_ text: String) throws(GenerationError) -> [Int] {
        let begins = tokenizer.specialTexts["bos_token"].map { text.utf8.starts(with: $0.utf8) }
        return try encode(text, addSpecialTokens: !(begins ?? false))
    }

    /// The ids of a conversation, by the model's chat template, up to where the assistant's turn
    /// begins. Of several templates it is `tool_use` where there are tools, or else `default`.
    ///
    /// - Parameters:
    ///   - messages: all turns, the oldest first.
    ///   - variables: what else the template may ask for, such as `enable_thinking` and `tools`.
    /// - Returns: the ids.
    /// - Throws: ``GenerationError`` if there is no template, or it does not render.
    public func encode(
        _ messages: [ChatMessage],
        variables: [String: JSON] = [:]
    ) throws(GenerationError) -> [Int] {
        let templates = tokenizer.chatTemplates
        let hasTools = variables["tools"].map { !$0.isNull } ?? false
        guard let source = (hasTools ? templates["tool_use"] : nil) ?? templates["default"] else {
            let names = templates.keys.sorted().map(quoted).joined(separator: ", ")
            let reason =
                templates.isEmpty
                ? "the model has no chat template"
                : "the model has chat templates named \(names), and none named 'default'"
            throw .request("\(reason); generate from a text as it is")
        }
        let text: String
        do throws(TemplateError) {
            var values = tokenizer.specialTexts.mapValues { JSON.string($0) }
            values.merge(variables) { _, given in given }
            text = try ChatTemplate(source).render(messages, variables: values)
        } catch {
            throw .template(error)
        }
        return try encode(text, addSpecialTokens: false)
    }

    private func encode(
        _ text: String,
        addSpecialTokens: Bool
    ) throws(GenerationError) -> [Int] {
        do throws(FormatError) {
            return try tokenizer.encode(text, addSpecialTokens: addSpecialTokens)
        } catch {
            throw .model(error)
        }
    }
}

extension LanguageModel {
    /// The scores of every token, after each token of a text: what perplexity is computed from.
    ///
    /// - Parameters:
    ///   - tokens: ids, at least one.
    ///   - step: how many are computed in one pass.
    /// - Returns: `tokens.count · vocabularySize` scores.
    /// - Throws: `FormatError` if an id is none that the model has.
    public func scores(
        afterEachOf tokens: [Int],
        step: Int = 256
    ) throws(FormatError) -> [Float] {
        let cache = makeCache()
        var scores: [Float] = []
        scores.reserveCapacity(tokens.count * vocabularySize)
        var at = 0
        while at < tokens.count {
            let end = min(at + max(1, step), tokens.count)
            scores += try logits(after: tokens[at..<end], cache, all: true)
            at = end
        }
        return scores
    }
}
