extension TemplateRenderer {
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
            dictionary[try text(of: try evaluate(key))] = try evaluate(value)
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

    /// What a filter's `attribute` names: with dots, an item of an item; what is not there is
    /// `standard`, where that is given.
    func part(
        of value: TemplateValue,
        at path: TemplateValue,
        default standard: TemplateValue? = nil
    ) throws(TemplateError) -> TemplateValue {
        let names = path.string?.split(separator: ".", omittingEmptySubsequences: false)
        var found = value
        for name in names ?? [""] {
            try step()
            let isPlace = !name.isEmpty && name.utf8.allSatisfy { (0x30...0x39).contains($0) }
            let place = isPlace ? Int(name).map { TemplateValue.int($0) } : nil
            found = try item(found, names == nil ? path : place ?? .string(String(name)))
            if found.isUndefined, let standard { found = standard }
        }
        return found
    }

    func item(
        _ value: TemplateValue,
        _ index: TemplateValue
    ) throws(TemplateError) -> TemplateValue {
        switch (value, index) {
        case (.list(let items), _), (.tuple(let items), _):
            guard let place = index.integer else {
                return .undefined(index.string ?? index.typeName)
            }
            let at = place < 0 ? place + items.count : place
            return items.indices.contains(at) ? items[at] : .undefined("item \(place)")
        case (.string(let text), _):
            guard let place = index.integer else {
                return .undefined(index.string ?? index.typeName)
            }
            let scalars = text.unicodeScalars
            try look(through: min(text.utf8.count, Int(clamping: place.magnitude)))
            let (start, limit) =
                place < 0
                ? (scalars.endIndex, scalars.startIndex) : (scalars.startIndex, scalars.endIndex)
            guard let at = scalars.index(start, offsetBy: place, limitedBy: limit),
                at < scalars.endIndex
            else { return .undefined("item \(place)") }
            return .string(String(scalars[at]))
        case (.dictionary(let dictionary), .string(let key)):
            return dictionary[key] ?? .undefined(key)
        case (.dictionary, _): return .undefined(index.string ?? index.typeName)
        case (_, .string(let name)): return try attribute(value, name)
        case (.undefined(let missing), _):
            throw failure("\(quoted(missing)) is undefined, it has no items")
        default: return .undefined(index.string ?? index.typeName)
        }
    }
}
