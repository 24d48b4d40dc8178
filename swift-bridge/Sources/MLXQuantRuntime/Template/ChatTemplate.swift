import MLXQuantFormats

/// A turn of a conversation.
public struct ChatMessage: Sendable {
    /// `system`, `user`, `assistant` or `tool`.
    public var role: String
    /// What was said.
    public var content: String

    /// A turn of a conversation.
    ///
    /// - Parameters:
    ///   - role: `system`, `user`, `assistant` or `tool`.
    ///   - content: what was said.
    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// A model's chat template: a conversation as the text that the model was trained on.
///
/// Templates are written in Jinja's language, of which this renders what templates of models use.
/// They come with models out of strangers' hands, and so what one may take is limited: steps, text,
/// depth. Nothing outside its variables is within its reach.
public struct ChatTemplate: Sendable {
    private let nodes: [TemplateNode]

    /// The longest template, in bytes.
    public static let longest = 1 << 20

    /// Reads a template.
    ///
    /// - Parameter source: its text.
    /// - Throws: ``TemplateError`` if it is too long, or not what this renderer reads.
    public init(_ source: String) throws(TemplateError) {
        guard source.utf8.count <= Self.longest else {
            let reason = "\(source.utf8.count) bytes; the limit is \(Self.longest)"
            throw TemplateError(kind: .budget, reason: reason, line: nil)
        }
        var parser = try TemplateParser(source)
        nodes = try parser.parse()
    }

    /// The text of a conversation.
    ///
    /// - Parameters:
    ///   - messages: the turns.
    ///   - addGenerationPrompt: whether the assistant's turn is opened.
    ///   - variables: what else the template may ask for: `bos_token`, `enable_thinking`, `tools`.
    /// - Returns: the text.
    /// - Throws: ``TemplateError`` if the template refuses the conversation, fails, or takes more
    ///   than any conversation needs.
    public func render(
        _ messages: [ChatMessage],
        addGenerationPrompt: Bool = true,
        variables: [String: JSON] = [:]
    ) throws(TemplateError) -> String {
        let turns = messages.map { message in
            TemplateValue.dictionary(
                TemplateDictionary([
                    ("role", .string(message.role)), ("content", .string(message.content)),
                ])
            )
        }
        return try render(
            messages: .list(turns),
            addGenerationPrompt: addGenerationPrompt,
            variables: variables
        )
    }

    /// The text of a conversation whose turns have more than a role and a content, such as calls of
    /// tools.
    ///
    /// - Parameters:
    ///   - messages: the turns, a list of objects.
    ///   - addGenerationPrompt: whether the assistant's turn is opened.
    ///   - variables: what else the template may ask for.
    /// - Returns: the text.
    /// - Throws: ``TemplateError`` as the other method of this name.
    public func render(
        messages: JSON,
        addGenerationPrompt: Bool = true,
        variables: [String: JSON] = [:]
    ) throws(TemplateError) -> String {
        try render(
            messages: TemplateValue(messages),
            addGenerationPrompt: addGenerationPrompt,
            variables: variables
        )
    }

    private func render(
        messages: TemplateValue,
        addGenerationPrompt: Bool,
        variables: [String: JSON]
    ) throws(TemplateError) -> String {
        var values = TemplateDictionary([("tools", .none), ("documents", .none)])
        for (name, value) in variables { values[name] = TemplateValue(value) }
        values["messages"] = messages
        values["add_generation_prompt"] = .bool(addGenerationPrompt)
        let renderer = TemplateRenderer(variables: values, budget: .init(for: values))
        return try renderer.render(nodes)
    }
}

extension TemplateValue {
    init(_ json: JSON) {
        switch json {
        case .null: self = .none
        case .bool(let value): self = .bool(value)
        case .number(let number): self = number.int.map { .int($0) } ?? .float(number.double)
        case .string(let text): self = .string(text)
        case .array(let items): self = .list(items.map { TemplateValue($0) })
        case .object(let object):
            let members = object.members.map { ($0.name, TemplateValue($0.value)) }
            self = .dictionary(TemplateDictionary(members))
        }
    }
}
