extension TemplateLibrary {
    /// What a filter makes of a value.
    static func filter(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        // A filter may call others by their names.
        try renderer.enter()
        defer { renderer.budget.depth += 1 }
        switch name {
        case "default", "d":
            let standard = arguments.value(0, "default_value") ?? .string("")
            let isFalseToo = arguments.value(1, "boolean")?.isTrue ?? false
            return value.isUndefined || (isFalseToo && !value.isTrue) ? standard : value
        case "tojson": return try json(value, arguments, renderer)
        case "string", "safe": return .string(try renderer.text(of: value))
        case "length", "count": return .int(try length(of: value, renderer))
        case "bool": return .bool(value.isTrue)
        case "int": return try integer(value, arguments, renderer)
        case "float": return try float(value, arguments, renderer)
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
        case .string(let text):
            try renderer.look(through: text.utf8.count)
            return text.unicodeScalars.count
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
            style.item = try renderer.text(of: separators[0])
            style.colon = try renderer.text(of: separators[1])
        }
        for text in [style.item, style.colon, style.indent ?? ""] where text.utf8.count > 64 {
            throw renderer.failure("an indent or a separator of \(text.utf8.count) bytes")
        }
        style.sortsKeys = arguments.value(3, "sort_keys")?.isTrue ?? false
        guard let text = try renderer.json(of: value, style) else {
            throw renderer.failure("a \(value.typeName) has no place in JSON")
        }
        return .string(text)
    }

    private static func integer(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        if let integer = value.integer { return .int(integer) }
        let standard = arguments.value(0, "default") ?? .int(0)
        if let number = value.number {
            return Int(exactly: number.rounded(.towardZero)).map { .int($0) } ?? standard
        }
        let whole = try renderer.text(of: value)
        try renderer.look(through: whole.utf8.count)
        let text = TemplateStrings.strip(whole, nil)
        if let integer = Int(text) { return .int(integer) }
        return Double(text).flatMap { Int(exactly: $0.rounded(.towardZero)) }.map { .int($0) }
            ?? standard
    }

    private static func float(
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        if let number = value.number { return .float(number) }
        let whole = try renderer.text(of: value)
        try renderer.look(through: whole.utf8.count)
        let text = TemplateStrings.strip(whole, nil)
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
        switch arguments.value(1, "method")?.string ?? "common" {
        case "ceil": rule = .up
        case "floor": rule = .down
        default:
            if let integer = value.integer { return .int(integer) }
            rule = .toNearestOrEven
        }
        return .float((number * scale).rounded(rule) / scale)
    }

    private static let textFilters: Set<String> = [
        "trim", "upper", "lower", "title", "capitalize", "replace", "escape", "e", "forceescape",
        "format", "truncate", "indent", "wordcount",
    ]

    /// Filters of texts; nil where the name is none.
    private static func filterText(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue? {
        guard textFilters.contains(name) else { return nil }
        let whole = try renderer.text(of: value)
        try renderer.look(through: whole.utf8.count)
        let text: String
        switch name {
        case "trim":
            let characters = arguments.value(0, "chars")?.string
            try renderer.look(through: characters?.utf8.count ?? 0)
            text = TemplateStrings.strip(whole, characters)
        case "upper": text = whole.uppercased()
        case "lower": text = whole.lowercased()
        case "title": text = TemplateStrings.titleOfWords(whole)
        case "capitalize": text = TemplateStrings.capitalized(whole)
        case "replace":
            guard let old = arguments.value(0, "old"), let new = arguments.value(1, "new") else {
                throw renderer.failure("replace takes what to replace, and by what")
            }
            let most = arguments.value(2, "count")?.integer ?? .max
            let (before, after) = (try renderer.text(of: old), try renderer.text(of: new))
            text = try replaced(whole, before, after, most, renderer)
        case "escape", "e", "forceescape":
            var escaped = ""
            for scalar in whole.unicodeScalars {
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
            text = try TemplateFormat.percent(whole, arguments.positional, renderer)
        case "truncate": text = try truncated(whole, arguments, renderer)
        case "indent": text = try indented(whole, arguments, renderer)
        default: return .int(TemplateStrings.wordCount(whole))
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
        try renderer.look(through: text.utf8.count + old.utf8.count)
        let count = TemplateStrings.places(of: old, in: text, most: limit).count
        let (size, overflow) = count.multipliedReportingOverflow(by: new.utf8.count)
        try renderer.charge(overflow ? .max : size + text.utf8.count)
        return TemplateStrings.replace(text, old, new, most: limit)
    }

    private static func truncated(
        _ text: String,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        let scalars = Array(text.unicodeScalars)
        let end = try arguments.value(2, "end").map(renderer.text) ?? "..."
        let length = max(0, arguments.value(0, "length")?.integer ?? 255)
        let leeway = max(0, arguments.value(3, "leeway")?.integer ?? 5)
        if scalars.count <= length || scalars.count - length <= leeway { return text }
        let kept = max(0, length - end.unicodeScalars.count)
        var part = scalars[..<min(kept, scalars.count)]
        if !(arguments.value(1, "killwords")?.isTrue ?? false), let space = part.lastIndex(of: " ")
        {
            part = part[..<space]
        }
        return TemplateStrings.string(part) + end
    }

    private static func indented(
        _ text: String,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        let width = arguments.value(0, "width")
        let indent =
            width?.string
            ?? String(repeating: " ", count: min(64, max(0, width?.integer ?? 4)))
        let first = arguments.value(1, "first")?.isTrue ?? false
        let blank = arguments.value(2, "blank")?.isTrue ?? false
        let count = 1 + text.utf8.count { $0 == 0xA }
        let (added, overflow) = count.multipliedReportingOverflow(by: 32 + indent.utf8.count)
        try renderer.charge(overflow ? .max : added)
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
        case "first", "last":
            if let text = value.string?.unicodeScalars {
                let scalar = name == "first" ? text.first : text.last
                return scalar.map { .string(String($0)) } ?? .undefined(name)
            }
            let items = try renderer.items(of: value)
            return (name == "first" ? items.first : items.last) ?? .undefined(name)
        case "reverse":
            if let text = value.string {
                try renderer.charge(text.utf8.count)
                return .string(TemplateStrings.string(text.unicodeScalars.reversed()))
            }
            return try renderer.made(try renderer.items(of: value).reversed())
        case "join":
            var parts: [String] = []
            for item in try renderer.items(of: value) {
                var item = item
                if let attribute = arguments.value(1, "attribute") {
                    item = try renderer.part(of: item, at: attribute)
                }
                let text = try renderer.text(of: item)
                try renderer.step()
                try renderer.charge(text.utf8.count)
                parts.append(text)
            }
            let separator = try arguments.value(0, "d").map(renderer.text) ?? ""
            try renderer.charge(parts.count * separator.utf8.count)
            return .string(parts.joined(separator: separator))
        case "items":
            guard case .dictionary(let dictionary) = value else {
                if value.isUndefined { return .list([]) }
                throw renderer.failure("a \(value.typeName) has no items")
            }
            return try pairs(dictionary, renderer)
        case "dictsort":
            guard case .dictionary(let dictionary) = value else {
                throw renderer.failure("dictsort of a \(value.typeName)")
            }
            let pairs = try renderer.items(of: try pairs(dictionary, renderer))
            let by = arguments.value(1, "by")?.string ?? "key"
            guard by == "key" || by == "value" else {
                throw renderer.failure("dictsort by 'key' or by 'value'")
            }
            let isExact = arguments.value(0, "case_sensitive")?.isTrue ?? false
            let reversed = arguments.value(2, "reverse")?.isTrue ?? false
            let place = TemplateValue.int(by == "key" ? 0 : 1)
            let result = try sorted(pairs, by: place, isExact, reversed, renderer)
            return try renderer.made(result)
        case "sort":
            let items = try renderer.items(of: value)
            let attribute = arguments.value(2, "attribute")
            let reversed = arguments.value(0, "reverse")?.isTrue ?? false
            let isExact = arguments.value(1, "case_sensitive")?.isTrue ?? false
            let result = try sorted(items, by: attribute, isExact, reversed, renderer)
            return try renderer.made(result)
        case "unique":
            let isExact = arguments.value(0, "case_sensitive")?.isTrue ?? false
            let attribute = arguments.value(1, "attribute")
            var seen: [TemplateValue] = []
            var kept: [TemplateValue] = []
            for item in try renderer.items(of: value) {
                let key = try key(of: item, attribute, isExact, renderer)
                if try renderer.place(of: key, in: seen) == nil {
                    seen.append(key)
                    kept.append(item)
                }
            }
            return try renderer.made(kept)
        case "sum", "min", "max": return try reduced(name, value, arguments, renderer)
        case "map": return try mapped(value, arguments, renderer)
        case "select", "reject", "selectattr", "rejectattr":
            return try selected(name, value, arguments, renderer)
        default: return nil
        }
    }

    /// The members of a dictionary, each a name and its value.
    static func pairs(
        _ dictionary: TemplateDictionary,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        try renderer.charge(items: 3 * dictionary.members.count)
        return .list(dictionary.members.map { .tuple([.string($0.key), $0.value]) })
    }

    private static func sorted(
        _ items: [TemplateValue],
        by attribute: TemplateValue?,
        _ isExact: Bool,
        _ reversed: Bool,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> [TemplateValue] {
        var keyed: [(key: TemplateValue, item: TemplateValue)] = []
        for item in items {
            keyed.append((try key(of: item, attribute, isExact, renderer), item))
        }
        // items of equal keys stay as they stood, downwards too
        if reversed { keyed.reverse() }
        let result = try renderer.sorted(keyed)
        return reversed ? result.reversed() : result
    }

    /// What an item is compared by: an attribute of it, and of texts the small letters.
    private static func key(
        of item: TemplateValue,
        _ attribute: TemplateValue?,
        _ isExact: Bool,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        var key = item
        if let attribute { key = try renderer.part(of: item, at: attribute) }
        if !isExact, let text = key.string { key = try renderer.made(text.lowercased()) }
        return key
    }

    private static func reduced(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue {
        if name == "sum" {
            var sum = arguments.value(1, "start") ?? .int(0)
            for item in try renderer.items(of: value) {
                var item = item
                if let attribute = arguments.value(0, "attribute") {
                    item = try renderer.part(of: item, at: attribute)
                }
                sum = try renderer.compute(sum, .add, item)
            }
            return sum
        }
        let isExact = arguments.value(0, "case_sensitive")?.isTrue ?? false
        let attribute = arguments.value(1, "attribute")
        var best: (key: TemplateValue, item: TemplateValue)?
        for item in try renderer.items(of: value) {
            let key = try key(of: item, attribute, isExact, renderer)
            if let old = best?.key {
                let isBetter =
                    name == "min" ? try renderer.isLess(key, old) : try renderer.isLess(old, key)
                if !isBetter { continue }
            }
            best = (key, item)
        }
        return best?.item ?? .undefined(name)
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
                let standard = arguments.value(.max, "default")
                results.append(try renderer.part(of: item, at: attribute, default: standard))
            } else if let name = arguments.positional.first?.string {
                var rest = arguments
                rest.positional.removeFirst()
                results.append(try filter(name, item, rest, renderer))
            } else {
                throw renderer.failure("map needs an attribute or a filter's name")
            }
        }
        return try renderer.made(results)
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
        let test = rest.popFirst()?.string
        let more = TemplateArguments(positional: Array(rest), named: arguments.named)
        var kept: [TemplateValue] = []
        for item in try renderer.items(of: value) {
            try renderer.step()
            var checked = item
            if let attribute { checked = try renderer.part(of: item, at: attribute) }
            var holds = checked.isTrue
            if let test { holds = try self.test(test, checked, more, renderer) }
            if holds == name.hasPrefix("select") { kept.append(item) }
        }
        return try renderer.made(kept)
    }
}
