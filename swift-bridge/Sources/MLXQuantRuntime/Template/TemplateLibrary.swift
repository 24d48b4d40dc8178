/// The functions and tests that templates have.
enum TemplateLibrary {
    /// The function of a name; nil where there is none.
    static func function(_ name: String) -> TemplateValue? {
        switch name {
        case "range": .function(TemplateFunction(name, range))
        case "namespace": .function(TemplateFunction(name, namespace))
        case "dict": .function(TemplateFunction(name, dictionary))
        case "strftime_now": .function(TemplateFunction(name, now))
        case "raise_exception": .function(TemplateFunction(name, refuse))
        default: nil
        }
    }

    private static func now(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        guard let format = arguments.positional.first?.string, format.utf8.count <= 64 else {
            throw renderer.failure("strftime_now takes a format of at most 64 bytes")
        }
        return try renderer.made(localTime(format))
    }

    /// The most items of a range, as Jinja's sandbox has it.
    private static let longestRange = 100_000

    private static func range(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        let values = arguments.positional.compactMap(\.integer)
        guard values.count == arguments.positional.count, (1...3).contains(values.count) else {
            throw renderer.failure("range takes one to three whole numbers")
        }
        let first = values.count > 1 ? values[0] : 0
        let end = values.count > 1 ? values[1] : values[0]
        let step = values.count > 2 ? values[2] : 1
        if step == 0 { throw renderer.failure("range with a step of 0") }
        let span = Double(end) - Double(first)
        if span / Double(step) > Double(longestRange) {
            throw renderer.failure("range of more than \(longestRange)", .budget)
        }
        return try renderer.made(stride(from: first, to: end, by: step).map { .int($0) })
    }

    private static func namespace(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        try renderer.namespace(try members(renderer, arguments))
    }

    private static func dictionary(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        try renderer.made(.dictionary(try members(renderer, arguments)))
    }

    private static func members(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateDictionary {
        var members = TemplateDictionary()
        for value in arguments.positional {
            guard case .dictionary(let dictionary) = value else {
                throw renderer.failure("a \(value.typeName) is no dictionary")
            }
            members = dictionary
        }
        for (name, value) in arguments.named { members[name] = value }
        return members
    }

    private static func refuse(
        _ renderer: TemplateRenderer,
        _ arguments: TemplateArguments
    ) throws(TemplateError) -> TemplateValue {
        let reason = try arguments.positional.first.map(renderer.text) ?? ""
        let line = reason.unicodeScalars.map { $0.value < 0x20 ? " " : $0 }
        throw renderer.failure(TemplateStrings.string(line.prefix(500)), .refused)
    }

    /// Whether a value is what a test's name says.
    static func test(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> Bool {
        func other() throws(TemplateError) -> TemplateValue {
            guard let other = arguments.positional.first else {
                throw renderer.failure("the test \(quoted(name)) needs an argument")
            }
            return other
        }
        func integer() throws(TemplateError) -> Int {
            guard let integer = value.integer else {
                throw renderer.failure("the test \(quoted(name)) of a \(value.typeName)")
            }
            return integer
        }
        switch name {
        case "defined": return !value.isUndefined
        case "undefined": return value.isUndefined
        case "none": if case .none = value { return true } else { return false }
        case "string": return value.string != nil
        case "boolean": if case .bool = value { return true } else { return false }
        case "true": if case .bool(true) = value { return true } else { return false }
        case "false": if case .bool(false) = value { return true } else { return false }
        case "integer": if case .int = value { return true } else { return false }
        case "float": if case .float = value { return true } else { return false }
        case "number": return value.number != nil
        case "mapping": if case .dictionary = value { return true } else { return false }
        case "sequence", "iterable":
            switch value {
            case .list, .tuple, .dictionary, .string, .undefined: return true
            default: return false
            }
        case "callable": if case .function = value { return true } else { return false }
        case "odd": return try integer() % 2 != 0
        case "even": return try integer() % 2 == 0
        case "divisibleby":
            guard let divisor = try other().integer, divisor != 0 else {
                throw renderer.failure("divisibleby takes a whole number but 0")
            }
            return try integer().isMultiple(of: divisor)
        case "lower", "upper":
            let text = try renderer.text(of: value)
            try renderer.charge(text.utf8.count)
            let other = name == "lower" ? text.lowercased() : text.uppercased()
            return text.utf8.elementsEqual(other.utf8)
        case "equalto", "eq", "==", "sameas": return try renderer.equals(value, try other())
        case "ne": return !(try renderer.equals(value, try other()))
        case "lt", "lessthan": return try renderer.isLess(value, try other())
        case "gt", "greaterthan": return try renderer.isLess(try other(), value)
        case "in": return try renderer.contains(try other(), value)
        default: throw renderer.failure("the test \(quoted(name)) is not known", .syntax)
        }
    }
}
