extension TemplateLibrary {
    /// What a filter makes of a value.
    static func filter(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        switch name {
        case "default", "d":
            let standard = arguments.value(0, "default_value") ?? .string("")
            let isFalseToo = arguments.value(1, "boolean")?.isTrue ?? false
            return value.isUndefined || (isFalseToo && !value.isTrue) ? standard : value
        case "tojson": return try json(value, arguments, renderer)
        case "string", "safe": return try renderer.made(value.text)
        case "length", "count": return .int(try length(of: value, renderer))
        case "bool": return .bool(value.isTrue)
        case "int": return integer(value, arguments)
        case "float": return float(value, arguments)
        case "abs":
            if let integer = value.integer, integer != .min { return .int(abs(integer)) }
            guard let number = value.number else {
                throw renderer.failure("abs of a \(value.typeName)")
            }
            return .float(number.magnitude)
        case "round": return try rounded(value, arguments, renderer)
        default: break
        }
        if let result = try filterText(name, value, arguments, renderer) { return result }
        if let result = try filterItems(name, value, arguments, renderer) { return result }
        throw renderer.failure("the filter \(quoted(name)) is not known", .syntax)
    }

    static func length(
        of value: TemplateValue,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> Int {
        switch value {
        case .string(let text): return text.unicodeScalars.count
        case .list(let items), .tuple(let items): return items.count
        case .dictionary(let dictionary): return dictionary.members.count
        case .undefined: return 0
        default: throw renderer.failure("a \(value.typeName) has no length")
        }
    }

    private static func json(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        var style = TemplateValue.JSONStyle()
        style.isASCII = arguments.value(0, "ensure_ascii")?.isTrue ?? false
        if let indent = arguments.value(1, "indent") {
            if let count = indent.integer {
                guard count <= 64 else { throw renderer.failure("an indent of \(count)") }
                style.indent = String(repeating: " ", count: max(0, count))
            } else if let text = indent.string {
                style.indent = text
            }
        }
        if let given = arguments.value(2, "separators"),
            case let separators = try renderer.items(of: given), separators.count == 2
        {
            (style.item, style.colon) = (separators[0].text, separators[1].text)
        }
        style.sortsKeys = arguments.value(3, "sort_keys")?.isTrue ?? false
        guard let text = value.json(style) else {
            throw renderer.failure("a \(value.typeName) has no place in JSON")
        }
        return try renderer.made(text)
    }

    private static func integer(
        _ value: TemplateValue,
        _ arguments: TemplateArguments
    ) -> TemplateValue {
        if let integer = value.integer { return .int(integer) }
        let standard = arguments.value(0, "default") ?? .int(0)
        if let number = value.number {
            return Int(exactly: number.rounded(.towardZero)).map { .int($0) } ?? standard
        }
        let text = TemplateStrings.strip(value.text, nil)
        if let integer = Int(text) { return .int(integer) }
        return Double(text).flatMap { Int(exactly: $0.rounded(.towardZero)) }.map { .int($0) }
            ?? standard
    }

    private static func float(
        _ value: TemplateValue,
        _ arguments: TemplateArguments
    ) -> TemplateValue {
        if let number = value.number { return .float(number) }
        let text = TemplateStrings.strip(value.text, nil)
        return Double(text).map { .float($0) } ?? arguments.value(0, "default") ?? .float(0)
    }

    private static func rounded(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        guard let number = value.number else {
            throw renderer.failure("round of a \(value.typeName)")
        }
        let digits = arguments.value(0, "precision")?.integer ?? 0
        guard (0...15).contains(digits) else { throw renderer.failure("\(digits) digits") }
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let rule: FloatingPointRoundingRule
        switch arguments.value(1, "method")?.text ?? "common" {
        case "ceil": rule = .up
        case "floor": rule = .down
        default: rule = .toNearestOrEven
        }
        return .float((number * scale).rounded(rule) / scale)
    }

    /// Filters of texts; nil where the name is none.
    private static func filterText(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue? {
        let text: String
        switch name {
        case "trim": text = TemplateStrings.strip(value.text, arguments.value(0, "chars")?.string)
        case "upper": text = value.text.uppercased()
        case "lower": text = value.text.lowercased()
        case "title": text = TemplateStrings.title(value.text)
        case "capitalize": text = TemplateStrings.capitalized(value.text)
        case "replace":
            guard let old = arguments.value(0, "old"), let new = arguments.value(1, "new") else {
                throw renderer.failure("replace takes what to replace, and by what")
            }
            let most = arguments.value(2, "count")?.integer ?? .max
            text = try replaced(value.text, old.text, new.text, most, renderer)
        case "escape", "e", "forceescape":
            var escaped = ""
            for scalar in value.text.unicodeScalars {
                switch scalar {
                case "&": escaped += "&amp;"
                case "<": escaped += "&lt;"
                case ">": escaped += "&gt;"
                case "\"": escaped += "&#34;"
                case "'": escaped += "&#39;"
                default: escaped.unicodeScalars.append(scalar)
                }
            }
            text = escaped
        case "format":
            text = try TemplateFormat.percent(value.text, arguments.positional, renderer)
        case "truncate": text = truncated(value.text, arguments)
        case "indent":
            text = indented(value.text, arguments)
        case "wordcount":
            return .int(TemplateStrings.words(value.text, most: .max).count)
        default: return nil
        }
        return try renderer.made(text)
    }

    /// Replaces parts of a text; what comes of it is accounted for before it is made.
    static func replaced(
        _ text: String,
        _ old: String,
        _ new: String,
        _ most: Int,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        let limit = most < 0 ? Int.max : most
        let count = TemplateStrings.places(of: old, in: text, most: limit).count
        let (size, overflow) = count.multipliedReportingOverflow(by: new.utf8.count)
        try renderer.charge(overflow ? .max : size + text.utf8.count)
        return TemplateStrings.replace(text, old, new, most: limit)
    }

    private static func truncated(_ text: String, _ arguments: TemplateArguments) -> String {
        let scalars = Array(text.unicodeScalars)
        let end = arguments.value(2, "end")?.text ?? "..."
        let length = arguments.value(0, "length")?.integer ?? 255
        if scalars.count <= length + (arguments.value(3, "leeway")?.integer ?? 5) { return text }
        let kept = max(0, length - end.unicodeScalars.count)
        var part = scalars[..<min(kept, scalars.count)]
        if !(arguments.value(1, "killwords")?.isTrue ?? false), let space = part.lastIndex(of: " ")
        {
            part = part[..<space]
        }
        return TemplateStrings.string(part) + end
    }

    private static func indented(_ text: String, _ arguments: TemplateArguments) -> String {
        let width = arguments.value(0, "width")
        let indent =
            width?.string
            ?? String(repeating: " ", count: min(64, max(0, width?.integer ?? 4)))
        let first = arguments.value(1, "first")?.isTrue ?? false
        let blank = arguments.value(2, "blank")?.isTrue ?? false
        let lines = TemplateStrings.split(text, "\n", most: .max)
        let shown = lines.enumerated().map { index, line in
            let indents = index == 0 ? first : blank || !line.isEmpty
            return indents ? indent + line : line
        }
        return shown.joined(separator: "\n")
    }

    /// Filters of lists and dictionaries; nil where the name is none.
    private static func filterItems(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue? {
        switch name {
        case "list": return .list(try renderer.items(of: value))
        case "first": return try renderer.items(of: value).first ?? .undefined("first")
        case "last": return try renderer.items(of: value).last ?? .undefined("last")
        case "reverse":
            let items = try renderer.items(of: value)
            if case .string = value {
                return try renderer.made(items.reversed().map(\.text).joined())
            }
            return .list(items.reversed())
        case "join":
            var parts: [String] = []
            for item in try renderer.items(of: value) {
                var item = item
                if let attribute = arguments.value(1, "attribute") {
                    item = try renderer.item(item, attribute)
                }
                parts.append(item.text)
                try renderer.charge(item.text.utf8.count)
            }
            let separator = arguments.value(0, "d")?.text ?? ""
            try renderer.charge(parts.count * separator.utf8.count)
            return .string(parts.joined(separator: separator))
        case "items":
            guard case .dictionary(let dictionary) = value else {
                if value.isUndefined { return .list([]) }
                throw renderer.failure("a \(value.typeName) has no items")
            }
            return .list(dictionary.members.map { .tuple([.string($0.key), $0.value]) })
        case "dictsort":
            guard case .dictionary(let dictionary) = value else {
                throw renderer.failure("dictsort of a \(value.typeName)")
            }
            let pairs = dictionary.members.map {
                TemplateValue.tuple([.string($0.key), $0.value])
            }
            return .list(try sorted(pairs, by: .int(0), arguments, renderer))
        case "sort":
            let items = try renderer.items(of: value)
            let attribute = arguments.value(2, "attribute")
            let reversed = arguments.value(0, "reverse")?.isTrue ?? false
            let result = try sorted(items, by: attribute, arguments, renderer)
            return .list(reversed ? result.reversed() : result)
        case "unique":
            var seen: [TemplateValue] = []
            for item in try renderer.items(of: value) {
                for _ in seen { try renderer.step() }
                if !seen.contains(where: { $0.equals(item) }) { seen.append(item) }
            }
            return .list(seen)
        case "sum", "min", "max": return try reduced(name, value, arguments, renderer)
        case "map": return try mapped(value, arguments, renderer)
        case "select", "reject", "selectattr", "rejectattr":
            return try selected(name, value, arguments, renderer)
        default: return nil
        }
    }

    private static func sorted(
        _ items: [TemplateValue],
        by attribute: TemplateValue?,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> [TemplateValue] {
        let isExact = arguments.value(1, "case_sensitive")?.isTrue ?? false
        var keyed: [(key: TemplateValue, item: TemplateValue)] = []
        for item in items {
            var key = item
            if let attribute { key = try renderer.item(item, attribute) }
            if !isExact, let text = key.string { key = .string(text.lowercased()) }
            if let other = keyed.last, key.isLess(than: other.key) == nil {
                throw renderer.failure(
                    "\(key.typeName) and \(other.key.typeName) cannot be ordered"
                )
            }
            try renderer.step()
            keyed.append((key, item))
        }
        // Swift's sort is stable; what cannot be ordered was refused above.
        return keyed.sorted { $0.key.isLess(than: $1.key) ?? false }.map(\.item)
    }

    private static func reduced(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        var result: TemplateValue = name == "sum" ? .int(0) : .undefined(name)
        for item in try renderer.items(of: value) {
            var item = item
            if let attribute = arguments.value(0, "attribute") {
                item = try renderer.item(item, attribute)
            }
            if name == "sum" {
                result = try renderer.compute(result, .add, item)
            } else if result.isUndefined {
                result = item
            } else if name == "min"
                ? try renderer.isLess(item, result) : try renderer.isLess(result, item)
            {
                result = item
            }
        }
        return result
    }

    private static func mapped(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        var results: [TemplateValue] = []
        let attribute = arguments.named.last { $0.0 == "attribute" }?.1
        for item in try renderer.items(of: value) {
            try renderer.step()
            if let attribute {
                var result = try renderer.item(item, attribute)
                if result.isUndefined, let standard = arguments.value(.max, "default") {
                    result = standard
                }
                results.append(result)
            } else if let name = arguments.positional.first?.string {
                var rest = arguments
                rest.positional.removeFirst()
                results.append(try filter(name, item, rest, renderer))
            } else {
                throw renderer.failure("map needs an attribute or a filter's name")
            }
        }
        return .list(results)
    }

    private static func selected(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        var rest = arguments.positional[...]
        let attribute = name.hasSuffix("attr") ? rest.popFirst() : nil
        if name.hasSuffix("attr"), attribute == nil {
            throw renderer.failure("\(name) needs an attribute")
        }
        let test = rest.popFirst()?.text
        let more = TemplateArguments(positional: Array(rest), named: arguments.named)
        var kept: [TemplateValue] = []
        for item in try renderer.items(of: value) {
            try renderer.step()
            var checked = item
            if let attribute { checked = try renderer.item(item, attribute) }
            var holds = checked.isTrue
            if let test { holds = try self.test(test, checked, more, renderer) }
            if holds == name.hasPrefix("select") { kept.append(item) }
        }
        return .list(kept)
    }
}
