extension TemplateParser {
    // MARK: Expressions, the least binding first

    /// One expression, or several with commas between them: a tuple.
    mutating func tuple(
        withConditional: Bool = true
    ) throws(TemplateError) -> TemplateExpression {
        func one(_ parser: inout TemplateParser) throws(TemplateError) -> TemplateExpression {
            withConditional ? try parser.expression() : try parser.disjunction()
        }
        let first = try one(&self)
        guard peek(",") else { return first }
        var items = [first]
        while take(",") {
            if at == tokens.count || peek(")") { break }
            items.append(try one(&self))
        }
        return .tuple(items)
    }

    mutating func expression() throws(TemplateError) -> TemplateExpression {
        try enter()
        var links = 1
        defer { depth -= links }
        var value = try disjunction()
        while take(word: "if") {
            try enter()
            links += 1
            let condition = try disjunction()
            let otherwise = take(word: "else") ? try expression() : nil
            value = .conditional(condition, value, otherwise)
        }
        return value
    }

    private mutating func disjunction() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try conjunction()
        while take(word: "or") {
            try enter()
            value = .either(value, try conjunction())
        }
        return value
    }

    private mutating func conjunction() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try negation()
        while take(word: "and") {
            try enter()
            value = .both(value, try negation())
        }
        return value
    }

    private mutating func negation() throws(TemplateError) -> TemplateExpression {
        guard take(word: "not") else { return try comparison() }
        try enter()
        defer { depth -= 1 }
        return .not(try negation())
    }

    private mutating func comparison() throws(TemplateError) -> TemplateExpression {
        let first = try sum()
        var rest: [(TemplateExpression.Comparison, TemplateExpression)] = []
        while at < tokens.count {
            if case .symbol(let symbol) = tokens[at].kind,
                let comparison = TemplateExpression.Comparison(rawValue: symbol)
            {
                at += 1
                rest.append((comparison, try sum()))
            } else if take(word: "in") {
                rest.append((.isIn, try sum()))
            } else if tokens[at].kind == .name("not"), at + 1 < tokens.count,
                tokens[at + 1].kind == .name("in")
            {
                at += 2
                rest.append((.isNotIn, try sum()))
            } else {
                break
            }
        }
        return rest.isEmpty ? first : .compared(first, rest)
    }

    private mutating func sum() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try joined()
        while true {
            try enter()
            if take("+") {
                value = .arithmetic(value, .add, try joined())
            } else if take("-") {
                value = .arithmetic(value, .subtract, try joined())
            } else {
                return value
            }
        }
    }

    private mutating func joined() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try product()
        while take("~") {
            try enter()
            value = .arithmetic(value, .join, try product())
        }
        return value
    }

    private mutating func product() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try power()
        while at < tokens.count, case .symbol(let symbol) = tokens[at].kind,
            ["*", "/", "//", "%"].contains(symbol),
            let operation = TemplateExpression.Arithmetic(rawValue: symbol)
        {
            try enter()
            at += 1
            value = .arithmetic(value, operation, try power())
        }
        return value
    }

    private mutating func power() throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = try unary()
        while take("**") {
            try enter()
            value = .arithmetic(value, .power, try unary())
        }
        return value
    }

    private mutating func unary(filters: Bool = true) throws(TemplateError) -> TemplateExpression {
        try enter()
        defer { depth -= 1 }
        var value: TemplateExpression
        if take("-") {
            value = .negative(try unary(filters: false))
        } else if take("+") {
            value = .positive(try unary(filters: false))
        } else {
            value = try primary()
        }
        value = try postfix(value)
        return filters ? try filtered(value) : value
    }

    private mutating func primary() throws(TemplateError) -> TemplateExpression {
        guard at < tokens.count else { throw failure("an expression expected") }
        let token = tokens[at]
        line = token.line
        at += 1
        switch token.kind {
        case .int(let value): return .int(value)
        case .float(let value): return .float(value)
        case .string(var text):
            // Texts side by side are one.
            while at < tokens.count, case .string(let more) = tokens[at].kind {
                text += more
                at += 1
            }
            return .string(text)
        case .name(let name):
            switch name {
            case "true", "True": return .bool(true)
            case "false", "False": return .bool(false)
            case "none", "None": return .none
            default: return .name(name)
            }
        case .symbol("("):
            if take(")") { return .tuple([]) }
            let value = try tuple()
            if !take(")") { throw failure("')' expected") }
            return value
        case .symbol("["):
            return .list(try items(until: "]"))
        case .symbol("{"):
            return .dictionary(try pairs())
        case .symbol:
            throw failure("unexpected \(shown(token))")
        }
    }

    private mutating func items(until end: String) throws(TemplateError) -> [TemplateExpression] {
        var items: [TemplateExpression] = []
        while !take(end) {
            if !items.isEmpty {
                if !take(",") { throw failure("',' or '\(end)' expected") }
                if take(end) { break }
            }
            items.append(try expression())
        }
        return items
    }

    private mutating func pairs() throws(TemplateError)
        -> [(TemplateExpression, TemplateExpression)]
    {
        var pairs: [(TemplateExpression, TemplateExpression)] = []
        while !take("}") {
            if !pairs.isEmpty {
                if !take(",") { throw failure("',' or '}' expected") }
                if take("}") { break }
            }
            let key = try expression()
            if !take(":") { throw failure("':' expected") }
            pairs.append((key, try expression()))
        }
        return pairs
    }

    private mutating func postfix(
        _ start: TemplateExpression
    ) throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = start
        while true {
            try enter()
            if take(".") {
                if at < tokens.count, case .int(let index) = tokens[at].kind {
                    at += 1
                    value = .item(value, .int(index))
                } else if let attribute = name() {
                    value = .attribute(value, attribute)
                } else {
                    throw failure("an attribute's name expected")
                }
            } else if take("[") {
                value = try subscripted(value)
            } else if take("(") {
                value = .call(value, try arguments())
            } else {
                return value
            }
        }
    }

    private mutating func subscripted(
        _ value: TemplateExpression
    ) throws(TemplateError) -> TemplateExpression {
        var parts: [TemplateExpression?] = []
        var isSlice = false
        var part: TemplateExpression?
        while !take("]") {
            if take(":") {
                isSlice = true
                parts.append(part)
                part = nil
            } else if part == nil {
                part = try expression()
            } else {
                throw failure("']' expected")
            }
        }
        parts.append(part)
        if isSlice {
            guard parts.count <= 3 else { throw failure("a slice of more than three parts") }
            return .slice(value, parts[0], parts[1], parts.count > 2 ? parts[2] : nil)
        }
        guard let index = parts[0] else { throw failure("an index expected") }
        return .item(value, index)
    }

    /// Up to the closing parenthesis.
    private mutating func arguments() throws(TemplateError) -> TemplateCall {
        var call = TemplateCall()
        var isFirst = true
        while !take(")") {
            if !isFirst {
                if !take(",") { throw failure("',' or ')' expected") }
                if take(")") { break }
            }
            isFirst = false
            if at + 1 < tokens.count, case .name(let name) = tokens[at].kind,
                tokens[at + 1].kind == .symbol("=")
            {
                at += 2
                call.named.append((name, try expression()))
            } else {
                call.positional.append(try expression())
            }
            if call.positional.count + call.named.count > Self.mostArguments {
                throw failure("more than \(Self.mostArguments) arguments")
            }
        }
        return call
    }

    private mutating func filtered(
        _ start: TemplateExpression
    ) throws(TemplateError) -> TemplateExpression {
        let level = depth
        defer { depth = level }
        var value = start
        while true {
            try enter()
            if take("|") {
                let (name, call) = try filterCall()
                value = .filter(value, name, call)
            } else if take(word: "is") {
                let negative = take(word: "not")
                guard let name = name() else { throw failure("a test's name expected") }
                var call = TemplateCall()
                if take("(") {
                    call = try arguments()
                } else if let only = try soleArgument() {
                    call.positional = [only]
                }
                let test = TemplateExpression.test(value, name, call)
                value = negative ? .not(test) : test
            } else if take("(") {
                value = .call(value, try arguments())
            } else {
                return value
            }
        }
    }

    mutating func filterCall() throws(TemplateError) -> (String, TemplateCall) {
        guard var name = name() else { throw failure("a filter's name expected") }
        while take(".") {
            guard let more = self.name() else { throw failure("a filter's name expected") }
            name += "." + more
        }
        return (name, take("(") ? try arguments() : TemplateCall())
    }

    /// A test's argument without parentheses: `is divisibleby 3`.
    private mutating func soleArgument() throws(TemplateError) -> TemplateExpression? {
        guard at < tokens.count else { return nil }
        switch tokens[at].kind {
        case .name(let name):
            if ["else", "or", "and", "if", "is", "in", "not"].contains(name) { return nil }
        case .int, .float, .string: break
        case .symbol(let symbol):
            if symbol != "[" && symbol != "{" { return nil }
        }
        return try postfix(try primary())
    }
}
