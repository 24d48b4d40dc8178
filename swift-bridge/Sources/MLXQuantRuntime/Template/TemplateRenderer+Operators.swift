extension TemplateRenderer {
    func negative(_ value: TemplateValue) throws(TemplateError) -> TemplateValue {
        if let integer = value.integer, integer != .min { return .int(-integer) }
        if let number = value.number { return .float(-number) }
        throw failure("a \(value.typeName) has no negative")
    }

    func compute(
        _ left: TemplateValue,
        _ operation: TemplateExpression.Arithmetic,
        _ right: TemplateValue
    ) throws(TemplateError) -> TemplateValue {
        for value in [left, right] {
            if case .undefined(let name) = value, operation != .join {
                throw failure("\(quoted(name)) is undefined")
            }
        }
        switch (left, operation, right) {
        case (_, .join, _): return try made(try text(of: left) + text(of: right))
        case (.string(let one), .add, .string(let other)): return try made(one + other)
        case (.list(let one), .add, .list(let other)):
            try charge(items: one.count + other.count)
            return .list(one + other)
        case (.tuple(let one), .add, .tuple(let other)):
            try charge(items: one.count + other.count)
            return .tuple(one + other)
        case (.string(let text), .multiply, _):
            guard let count = right.integer else { break }
            return try repeated(text, count)
        case (_, .multiply, .string(let text)):
            guard let count = left.integer else { break }
            return try repeated(text, count)
        case (.list(let items), .multiply, _):
            guard let count = right.integer else { break }
            let (size, overflow) = items.count.multipliedReportingOverflow(by: max(0, count))
            try charge(items: overflow ? .max : size)
            if size == 0 { return .list([]) }
            return .list(Array(repeating: items, count: count).flatMap { $0 })
        case (.string(let text), .remainder, _):
            var values = [right]
            if case .tuple(let items) = right { values = items }
            return try made(try TemplateFormat.percent(text, values, self))
        default: break
        }
        if let one = left.integer, let other = right.integer {
            return try compute(one, operation, other)
        }
        if let one = left.number, let other = right.number {
            return try compute(one, operation, other)
        }
        let types = "\(left.typeName) and \(right.typeName)"
        throw failure("'\(operation.rawValue)' of \(types)")
    }

    private func repeated(_ text: String, _ count: Int) throws(TemplateError) -> TemplateValue {
        let (size, overflow) = text.utf8.count.multipliedReportingOverflow(by: max(0, count))
        try charge(overflow ? .max : size)
        return .string(size == 0 ? "" : String(repeating: text, count: count))
    }

    private func compute(
        _ left: Int,
        _ operation: TemplateExpression.Arithmetic,
        _ right: Int
    ) throws(TemplateError) -> TemplateValue {
        func checked(_ result: (partialValue: Int, overflow: Bool)) throws(TemplateError)
            -> TemplateValue
        {
            if result.overflow { throw failure("a number becomes too large", .budget) }
            return .int(result.partialValue)
        }
        switch operation {
        case .add: return try checked(left.addingReportingOverflow(right))
        case .subtract: return try checked(left.subtractingReportingOverflow(right))
        case .multiply: return try checked(left.multipliedReportingOverflow(by: right))
        case .divide, .divideDown, .remainder:
            if right == 0 { throw failure("division by zero") }
            if operation == .divide { return .float(Double(left) / Double(right)) }
            let (quotient, overflow) = left.dividedReportingOverflow(by: right)
            if overflow { throw failure("a number becomes too large", .budget) }
            let rest = left - quotient * right
            // Python rounds down, and a remainder has the divisor's sign.
            let down = rest != 0 && (rest < 0) != (right < 0)
            if operation == .remainder { return .int(down ? rest + right : rest) }
            return .int(down ? quotient - 1 : quotient)
        case .power:
            if right < 0 { return try compute(Double(left), operation, Double(right)) }
            var value = 1
            for _ in 0..<min(right, 64) where left.magnitude > 1 {
                let (product, overflow) = value.multipliedReportingOverflow(by: left)
                if overflow { throw failure("a number becomes too large", .budget) }
                value = product
            }
            if left == -1 { value = right % 2 == 0 ? 1 : -1 }
            if left == 0 { value = right == 0 ? 1 : 0 }
            return .int(value)
        case .join: return .undefined("")
        }
    }

    private func compute(
        _ left: Double,
        _ operation: TemplateExpression.Arithmetic,
        _ right: Double
    ) throws(TemplateError) -> TemplateValue {
        switch operation {
        case .add: return .float(left + right)
        case .subtract: return .float(left - right)
        case .multiply: return .float(left * right)
        case .divide, .divideDown, .remainder:
            if right == 0 { throw failure("division by zero") }
            if operation == .divide { return .float(left / right) }
            let down = (left / right).rounded(.down)
            return .float(operation == .divideDown ? down : left - down * right)
        case .power: throw failure("'**' of fractions")
        case .join: return .undefined("")
        }
    }

    func compare(
        _ first: TemplateExpression,
        _ rest: [(TemplateExpression.Comparison, TemplateExpression)]
    ) throws(TemplateError) -> Bool {
        var left = try evaluate(first)
        for (comparison, expression) in rest {
            let right = try evaluate(expression)
            if !(try holds(left, comparison, right)) { return false }
            left = right
        }
        return true
    }

    private func holds(
        _ left: TemplateValue,
        _ comparison: TemplateExpression.Comparison,
        _ right: TemplateValue
    ) throws(TemplateError) -> Bool {
        switch comparison {
        case .equal: return try equals(left, right)
        case .unequal: return !(try equals(left, right))
        case .isIn: return try contains(right, left)
        case .isNotIn: return !(try contains(right, left))
        case .less: return try isLess(left, right)
        case .greater: return try isLess(right, left)
        case .atMost: return try equals(left, right) ? true : try isLess(left, right)
        case .atLeast: return try equals(left, right) ? true : try isLess(right, left)
        }
    }

    func contains(
        _ container: TemplateValue,
        _ value: TemplateValue
    ) throws(TemplateError) -> Bool {
        switch container {
        case .string(let text):
            guard let part = value.string else {
                if value.isUndefined { throw failure("a value is undefined") }
                throw failure("a \(value.typeName) in a text")
            }
            try look(through: text.utf8.count + part.utf8.count)
            return TemplateStrings.places(of: part, in: text, most: 1).first != nil
        case .list(let items), .tuple(let items): return try place(of: value, in: items) != nil
        case .dictionary(let dictionary):
            return value.string.map { dictionary[$0] != nil } ?? false
        case .undefined: return false
        default: throw failure("'in' a \(container.typeName)")
        }
    }

    func slice(
        _ value: TemplateValue,
        _ bounds: [Int?]
    ) throws(TemplateError) -> TemplateValue {
        switch value {
        case .list(let items): return try made(try sliced(items, bounds))
        case .tuple(let items):
            let part = try sliced(items, bounds)
            try charge(items: part.count)
            return .tuple(part)
        case .string(let text):
            try charge(text.utf8.count)
            let scalars = try sliced(Array(text.unicodeScalars), bounds)
            return .string(String(String.UnicodeScalarView(scalars)))
        default: throw failure("a slice of a \(value.typeName)")
        }
    }

    private func sliced<Item>(
        _ items: [Item],
        _ bounds: [Int?]
    ) throws(TemplateError) -> [Item] {
        let step = bounds[2] ?? 1
        if step == 0 || step == .min { throw failure("a slice's step of \(step)") }
        let count = items.count
        let least = step > 0 ? 0 : -1
        let most = step > 0 ? count : count - 1
        func place(_ bound: Int?, _ standard: Int) -> Int {
            guard let bound else { return standard }
            let from = bound < 0 ? max(bound, -count - 1) + count : bound
            return min(max(from, least), most)
        }
        let first = place(bounds[0], step > 0 ? least : most)
        let end = place(bounds[1], step > 0 ? most : least)
        return stride(from: first, to: end, by: step).map { items[$0] }
    }
}
