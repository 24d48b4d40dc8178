/// Renders one template once.
///
/// Templates come out of files that may be hostile: steps, depth and text are limited, and there is
/// nothing in here that a template could reach but the values it is given.
final class TemplateRenderer {
    /// How much a rendering may take.
    struct Budget {
        /// Expressions and tags.
        var steps = 5_000_000
        /// Bytes of all texts that are made, the result among them.
        var bytes = 64 << 20
        /// Calls and blocks within one another.
        var depth = 200
    }

    private var budget: Budget
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

    /// Accounts for text that is about to be made.
    func charge(_ bytes: Int) throws(TemplateError) {
        budget.bytes -= bytes
        if budget.bytes < 0 { throw failure("it makes too much text", .budget) }
    }

    private func enter() throws(TemplateError) {
        budget.depth -= 1
        if budget.depth < 0 { throw failure("it nests too deep", .budget) }
    }

    /// Accounts for a text, and gives it back.
    func made(_ text: String) throws(TemplateError) -> TemplateValue {
        try charge(text.utf8.count)
        return .string(text)
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

    private func lookUp(_ name: String) -> TemplateValue {
        for scope in scopes.reversed() {
            if let value = scope[name] { return value }
        }
        return TemplateLibrary.functions[name] ?? .undefined(name)
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
            try write(try evaluate(expression).text)
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
        if let condition = loop.condition {
            var kept: [TemplateValue] = []
            for item in items {
                let keep = try inScope { () throws(TemplateError) in
                    try assign(item, to: loop.target)
                    return try evaluate(condition).isTrue
                }
                if keep { kept.append(item) }
            }
            items = kept
        }
        for (index, item) in items.enumerated() {
            try step()
            let flow = try inScope { () throws(TemplateError) in
                scopes[scopes.count - 1]["loop"] = .function(state(of: items, at: index))
                try assign(item, to: loop.target)
                return try run(loop.body)
            }
            if flow == .leave { return }
        }
        if items.isEmpty { _ = try nested(loop.otherwise) }
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
        case .dictionary(let dictionary): return dictionary.members.map { .string($0.key) }
        case .string(let text):
            try charge(text.utf8.count)
            return text.unicodeScalars.map { .string(String($0)) }
        case .undefined: return []
        default: throw failure("a \(value.typeName) has no items")
        }
    }

    // MARK: Expressions

    func evaluate(_ expression: TemplateExpression) throws(TemplateError) -> TemplateValue {
        try step()
        try enter()
        defer { budget.depth += 1 }
        switch expression {
        case .none: return .none
        case .bool(let value): return .bool(value)
        case .int(let value): return .int(value)
        case .float(let value): return .float(value)
        case .string(let text): return .string(text)
        case .name(let name): return lookUp(name)
        case .list(let items): return try made(.list(try values(items)))
        case .tuple(let items): return try made(.tuple(try values(items)))
        case .dictionary(let pairs): return try dictionary(pairs)
        case .attribute(let object, let name):
            return try attribute(try evaluate(object), name)
        case .item(let object, let index):
            return try item(try evaluate(object), try evaluate(index))
        case .slice(let object, let first, let end, let step):
            return try slice(try evaluate(object), try [first, end, step].map(integer))
        case .call(let function, let call): return try self.call(function, call)
        case .filter(let value, let name, let call):
            return try TemplateLibrary.filter(
                name,
                try evaluate(value),
                try arguments(call),
                self
            )
        case .test(let value, let name, let call):
            let (value, arguments) = (try evaluate(value), try arguments(call))
            return .bool(try TemplateLibrary.test(name, value, arguments, self))
        case .not(let value): return .bool(!(try evaluate(value).isTrue))
        case .negative(let value): return try negative(try evaluate(value))
        case .positive(let value): return try evaluate(value)
        case .both(let left, let right):
            let value = try evaluate(left)
            return value.isTrue ? try evaluate(right) : value
        case .either(let left, let right):
            let value = try evaluate(left)
            return value.isTrue ? value : try evaluate(right)
        case .arithmetic(let left, let operation, let right):
            return try compute(try evaluate(left), operation, try evaluate(right))
        case .compared(let first, let rest): return .bool(try compare(first, rest))
        case .conditional(let condition, let value, let otherwise):
            if try evaluate(condition).isTrue { return try evaluate(value) }
            return try otherwise.map(evaluate) ?? .undefined("")
        }
    }

    private func values(_ expressions: [TemplateExpression]) throws(TemplateError)
        -> [TemplateValue]
    {
        var values: [TemplateValue] = []
        for expression in expressions { values.append(try evaluate(expression)) }
        return values
    }

    private func integer(_ expression: TemplateExpression?) throws(TemplateError) -> Int? {
        guard let expression else { return nil }
        let value = try evaluate(expression)
        if case .none = value { return nil }
        guard let integer = value.integer else { throw failure("a slice needs whole numbers") }
        return integer
    }

    func arguments(_ call: TemplateCall) throws(TemplateError) -> TemplateArguments {
        var arguments = TemplateArguments(positional: try values(call.positional))
        for (name, expression) in call.named {
            arguments.named.append((name, try evaluate(expression)))
        }
        return arguments
    }

    private func dictionary(
        _ pairs: [(TemplateExpression, TemplateExpression)]
    ) throws(TemplateError) -> TemplateValue {
        var dictionary = TemplateDictionary()
        for (key, value) in pairs {
            dictionary[try evaluate(key).text] = try evaluate(value)
        }
        return try made(.dictionary(dictionary))
    }

    private func call(
        _ function: TemplateExpression,
        _ call: TemplateCall
    ) throws(TemplateError) -> TemplateValue {
        // A method is called where it is named: nothing is bound to an object.
        if case .attribute(let object, let name) = function {
            let value = try evaluate(object)
            let arguments = try arguments(call)
            if let result = try TemplateLibrary.method(name, value, arguments, self) {
                return result
            }
            return try self.call(try attribute(value, name), arguments, name)
        }
        let value = try evaluate(function)
        var name = value.typeName
        if case .name(let own) = function { name = own }
        return try self.call(value, try arguments(call), name)
    }

    private func call(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ name: String
    ) throws(TemplateError) -> TemplateValue {
        guard case .function(let function) = value else {
            let what = value.isUndefined ? "is undefined" : "is a \(value.typeName)"
            throw failure("\(quoted(name)) \(what), it cannot be called")
        }
        return try function.body(self, arguments)
    }

    func attribute(
        _ value: TemplateValue,
        _ name: String
    ) throws(TemplateError) -> TemplateValue {
        switch value {
        case .undefined(let missing):
            throw failure("\(quoted(missing)) is undefined, it has no \(quoted(name))")
        case .dictionary(let dictionary): return dictionary[name] ?? .undefined(name)
        case .namespace(let namespace): return namespace.values[name] ?? .undefined(name)
        case .function(let function): return function.attributes[name] ?? .undefined(name)
        default: return .undefined(name)
        }
    }

    func item(
        _ value: TemplateValue,
        _ index: TemplateValue
    ) throws(TemplateError) -> TemplateValue {
        switch (value, index) {
        case (.list(let items), _), (.tuple(let items), _):
            guard let place = index.integer else { return .undefined(index.text) }
            let at = place < 0 ? place + items.count : place
            return items.indices.contains(at) ? items[at] : .undefined("item \(place)")
        case (.string(let text), _):
            guard let place = index.integer else { return .undefined(index.text) }
            let scalars = Array(text.unicodeScalars)
            let at = place < 0 ? place + scalars.count : place
            return scalars.indices.contains(at)
                ? .string(String(scalars[at])) : .undefined("item \(place)")
        case (.dictionary(let dictionary), .string(let key)):
            return dictionary[key] ?? .undefined(key)
        case (.dictionary, _): return .undefined(index.text)
        case (_, .string(let name)): return try attribute(value, name)
        case (.undefined(let missing), _):
            throw failure("\(quoted(missing)) is undefined, it has no items")
        default: return .undefined(index.text)
        }
    }
}
