/// Renders one template once.
///
/// Templates come out of files that may be hostile: steps, depth and text are limited, and there is
/// nothing in here that a template could reach but the values it is given.
final class TemplateRenderer {
    /// How much a rendering may take.
    struct Budget {
        /// Expressions and tags, items of lists that are looked at, and 64 bytes of text each.
        var steps = 2_000_000
        /// Bytes of all texts and lists that are made, the result among them.
        var bytes = 64 << 20
        /// Calls and blocks within one another.
        var depth = 200

        /// What any template may take, and more for a long conversation.
        init(for values: TemplateDictionary) {
            let (items, size) = TemplateValue.dictionary(values).weight
            steps += 200 * items + size / 4
            bytes += 16 * size
        }
    }

    var budget: Budget
    private var output = ""
    private var scopes: [TemplateDictionary]
    /// Every one that was made: they may hold one another.
    private var namespaces: [TemplateNamespace] = []
    private(set) var line = 1

    /// What a tag did to the loop that it stands in.
    private enum Flow { case on, leave, again }

    init(variables: TemplateDictionary, budget: Budget) {
        self.budget = budget
        scopes = [variables, TemplateDictionary()]
    }

    func failure(_ reason: String, _ kind: TemplateError.Kind = .failed) -> TemplateError {
        TemplateError(kind: kind, reason: reason, line: line)
    }

    func render(_ nodes: [TemplateNode]) throws(TemplateError) -> String {
        defer { for namespace in namespaces { namespace.values = TemplateDictionary() } }
        if try run(nodes) != .on { throw failure("a loop's tag outside a loop", .syntax) }
        return output
    }

    // MARK: Budget

    func step() throws(TemplateError) {
        budget.steps -= 1
        if budget.steps < 0 { throw failure("it takes too many steps", .budget) }
    }

    /// Accounts for text that is looked through.
    func look(through bytes: Int) throws(TemplateError) {
        budget.steps -= bytes / 64
        if budget.steps < 0 { throw failure("it takes too many steps", .budget) }
    }

    /// Accounts for text that is about to be made.
    func charge(_ bytes: Int) throws(TemplateError) {
        let (left, overflow) = budget.bytes.subtractingReportingOverflow(bytes)
        budget.bytes = left
        if overflow || left < 0 { throw failure("it makes too much text", .budget) }
    }

    /// Accounts for a list that is about to be made.
    func charge(items: Int) throws(TemplateError) {
        let (bytes, overflow) = items.multipliedReportingOverflow(
            by: MemoryLayout<TemplateValue>.stride
        )
        try charge(overflow ? .max : bytes)
    }

    func enter() throws(TemplateError) {
        budget.depth -= 1
        if budget.depth < 0 { throw failure("it nests too deep", .budget) }
    }

    /// Accounts for a text, and gives it back.
    func made(_ text: String) throws(TemplateError) -> TemplateValue {
        try charge(text.utf8.count)
        return .string(text)
    }

    /// Accounts for a list, and gives it back.
    func made(_ items: [TemplateValue]) throws(TemplateError) -> TemplateValue {
        try charge(items: items.count)
        return .list(items)
    }

    /// The most lists and dictionaries within one another.
    private static let deepestValue = 48

    /// Gives a new value back, unless it nests too deep.
    func made(_ value: TemplateValue) throws(TemplateError) -> TemplateValue {
        try measure(value, levels: Self.deepestValue)
        return value
    }

    func namespace(_ values: TemplateDictionary) throws(TemplateError) -> TemplateValue {
        let namespace = TemplateNamespace(values)
        namespaces.append(namespace)
        return try made(.namespace(namespace))
    }

    private func measure(_ value: TemplateValue, levels: Int) throws(TemplateError) {
        if levels == 0 { throw failure("its values nest too deep", .budget) }
        switch value {
        case .list(let items), .tuple(let items):
            for item in items {
                try step()
                try measure(item, levels: levels - 1)
            }
        case .dictionary(let dictionary):
            for (_, item) in dictionary.members {
                try step()
                try measure(item, levels: levels - 1)
            }
        case .namespace(let namespace):
            for (_, item) in namespace.values.members {
                try step()
                try measure(item, levels: levels - 1)
            }
        default: break
        }
    }

    // MARK: Names

    func lookUp(_ name: String) -> TemplateValue {
        budget.steps -= scopes.count / 8
        for scope in scopes.reversed() {
            if let value = scope[name] { return value }
        }
        return TemplateLibrary.function(name) ?? .undefined(name)
    }

    private func assign(_ value: TemplateValue, to target: TemplateTarget) throws(TemplateError) {
        switch target {
        case .name(let name):
            scopes[scopes.count - 1][name] = value
        case .names(let names):
            let items = try self.items(of: value)
            guard items.count == names.count else {
                throw failure("\(items.count) values for \(names.count) names")
            }
            for (name, item) in zip(names, items) { scopes[scopes.count - 1][name] = item }
        case .attribute(let name, let attribute):
            guard case .namespace(let namespace) = lookUp(name) else {
                throw failure("\(quoted(name)) is no namespace: its attributes cannot be set")
            }
            namespace.values[attribute] = value
            _ = try made(.namespace(namespace))
        }
    }

    private func inScope<Result>(
        _ body: () throws(TemplateError) -> Result
    ) throws(TemplateError) -> Result {
        try enter()
        scopes.append(TemplateDictionary())
        defer {
            scopes.removeLast()
            budget.depth += 1
        }
        return try body()
    }

    // MARK: Tags

    private func write(_ text: String) throws(TemplateError) {
        try charge(text.utf8.count)
        output += text
    }

    private func run(_ nodes: [TemplateNode]) throws(TemplateError) -> Flow {
        for node in nodes {
            let flow = try run(node)
            if flow != .on { return flow }
        }
        return .on
    }

    private func run(_ node: TemplateNode) throws(TemplateError) -> Flow {
        try step()
        switch node {
        case .text(let text):
            try write(text)
        case .output(let expression, let first):
            line = first
            try write(try text(of: try evaluate(expression)))
        case .branch(let branches, let otherwise, let first):
            for (condition, body) in branches {
                line = first
                if try evaluate(condition).isTrue { return try nested(body) }
            }
            return try nested(otherwise)
        case .loop(let loop, let first):
            line = first
            try run(loop)
        case .set(let target, let expression, let first):
            line = first
            try assign(try evaluate(expression), to: target)
        case .capture(let target, let filters, let body, let first):
            line = first
            var value = TemplateValue.string(try captured(body))
            for (name, call) in filters {
                value = try TemplateLibrary.filter(name, value, try arguments(call), self)
            }
            try assign(value, to: target)
        case .macro(let macro):
            scopes[scopes.count - 1][macro.name] = .function(function(macro))
        case .scope(let values, let body, let first):
            line = first
            return try inScope { () throws(TemplateError) in
                for (name, expression) in values {
                    try assign(try evaluate(expression), to: .name(name))
                }
                return try run(body)
            }
        case .breakLoop: return .leave
        case .continueLoop: return .again
        }
        return .on
    }

    private func nested(_ body: [TemplateNode]) throws(TemplateError) -> Flow {
        try enter()
        defer { budget.depth += 1 }
        return try run(body)
    }

    /// What tags write, instead of writing it.
    private func captured(_ body: [TemplateNode]) throws(TemplateError) -> String {
        let before = output
        output = ""
        defer { output = before }
        _ = try inScope { () throws(TemplateError) in try run(body) }
        return output
    }

    private func function(_ macro: TemplateMacro) -> TemplateFunction {
        // A macro sees what is set where it is written, not where it is called.
        let depth = scopes.count
        return TemplateFunction(macro.name) { renderer, arguments throws(TemplateError) in
            let outside = renderer.scopes
            renderer.scopes = Array(outside.prefix(depth))
            defer { renderer.scopes = outside }
            return try renderer.call(macro, arguments)
        }
    }

    private func call(
        _ macro: TemplateMacro,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        guard arguments.positional.count <= macro.parameters.count else {
            throw failure("\(macro.name) takes \(macro.parameters.count) arguments")
        }
        let before = output
        output = ""
        defer { output = before }
        try inScope { () throws(TemplateError) in
            for (place, (name, standard)) in macro.parameters.enumerated() {
                var value = arguments.value(place, name)
                if value == nil, let standard { value = try evaluate(standard) }
                scopes[scopes.count - 1][name] = value ?? .undefined(name)
            }
            _ = try run(macro.body)
        }
        return try made(output)
    }

    private func run(_ loop: TemplateLoop) throws(TemplateError) {
        var items = try self.items(of: try evaluate(loop.items))
        if loop.usesLoop {
            var kept: [TemplateValue] = []
            for item in items where try isWanted(item, loop) { kept.append(item) }
            items = kept
        }
        var isEmpty = true
        for (index, item) in items.enumerated() {
            try step()
            // as in Jinja: the body may have changed what the condition asks for
            if !loop.usesLoop, !(try isWanted(item, loop)) { continue }
            isEmpty = false
            let flow = try inScope { () throws(TemplateError) in
                if loop.usesLoop {
                    scopes[scopes.count - 1]["loop"] = .function(state(of: items, at: index))
                }
                try assign(item, to: loop.target)
                return try run(loop.body)
            }
            if flow == .leave { return }
        }
        if isEmpty { _ = try nested(loop.otherwise) }
    }

    /// Whether a loop's condition holds for an item.
    private func isWanted(
        _ item: TemplateValue,
        _ loop: TemplateLoop
    ) throws(TemplateError) -> Bool {
        guard let condition = loop.condition else { return true }
        return try inScope { () throws(TemplateError) in
            try assign(item, to: loop.target)
            return try evaluate(condition).isTrue
        }
    }

    /// What is `loop` within a loop.
    private func state(of items: [TemplateValue], at index: Int) -> TemplateFunction {
        let count = items.count
        return TemplateFunction(
            "loop",
            attributes: TemplateDictionary([
                ("index0", .int(index)), ("index", .int(index + 1)),
                ("revindex0", .int(count - index - 1)), ("revindex", .int(count - index)),
                ("first", .bool(index == 0)), ("last", .bool(index == count - 1)),
                ("length", .int(count)), ("depth", .int(1)), ("depth0", .int(0)),
                ("previtem", index > 0 ? items[index - 1] : .undefined("previtem")),
                ("nextitem", index + 1 < count ? items[index + 1] : .undefined("nextitem")),
                (
                    "cycle",
                    .function(
                        TemplateFunction("cycle") { renderer, arguments throws(TemplateError) in
                            let values = arguments.positional
                            if values.isEmpty { throw renderer.failure("cycle without values") }
                            return values[index % values.count]
                        }
                    )
                ),
            ])
        ) { renderer, _ throws(TemplateError) in
            throw renderer.failure("recursive loops are not supported")
        }
    }

    /// What a loop goes through.
    func items(of value: TemplateValue) throws(TemplateError) -> [TemplateValue] {
        switch value {
        case .list(let items), .tuple(let items): return items
        case .dictionary(let dictionary):
            try charge(items: dictionary.members.count)
            return dictionary.members.map { .string($0.key) }
        case .string(let text):
            try charge(items: text.utf8.count)
            return text.unicodeScalars.map { .string(String($0)) }
        case .undefined: return []
        default: throw failure("a \(value.typeName) has no items")
        }
    }
}
