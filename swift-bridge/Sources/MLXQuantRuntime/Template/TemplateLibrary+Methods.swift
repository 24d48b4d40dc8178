extension TemplateLibrary {
    /// What a method of a text, list or dictionary gives; nil where it has none of that name.
    static func method(
        _ name: String,
        _ value: TemplateValue,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue? {
        switch value {
        case .string(let text): return try textMethod(name, text, arguments, renderer)
        case .dictionary(let dictionary):
            switch name {
            case "items":
                return try pairs(dictionary, renderer)
            case "keys": return try renderer.made(dictionary.members.map { .string($0.key) })
            case "values": return try renderer.made(dictionary.members.map(\.value))
            case "get":
                let found = arguments.value(0, "key")?.string.flatMap { dictionary[$0] }
                return found ?? arguments.value(1, "default") ?? TemplateValue.none
            default: return nil
            }
        case .list(let items), .tuple(let items):
            guard let wanted = arguments.positional.first else { return nil }
            switch name {
            case "index":
                guard let place = try renderer.place(of: wanted, in: items) else {
                    throw renderer.failure("what is looked for is not in the list")
                }
                return .int(place)
            case "count":
                var count = 0
                for item in items where try renderer.equals(item, wanted) { count += 1 }
                return .int(count)
            case "append", "extend", "insert", "pop", "remove":
                throw renderer.failure("a template must not change a list")
            default: return nil
            }
        default: return nil
        }
    }

    /// Of methods to which Python gives more: places to begin and end at, whether lines keep their ends.
    private static let mostArguments = [
        "startswith": 1, "endswith": 1, "find": 1, "rfind": 1, "index": 1, "count": 1,
        "splitlines": 0,
    ]

    private static func textMethod(
        _ name: String,
        _ text: String,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> TemplateValue? {
        try renderer.look(through: text.utf8.count)
        for value in arguments.positional {
            if let other = value.string { try renderer.look(through: other.utf8.count) }
        }
        func part(_ place: Int) throws(TemplateError) -> String {
            guard place < arguments.positional.count,
                let part = arguments.positional[place].string
            else { throw renderer.failure("\(name) needs a text") }
            return part
        }
        let characters = arguments.positional.first?.string
        let most = mostArguments[name] ?? .max
        if arguments.positional.count > most {
            throw renderer.failure("\(name) takes no more than \(most) arguments here")
        }
        switch name {
        case "strip": return try renderer.made(TemplateStrings.strip(text, characters))
        case "lstrip":
            return try renderer.made(TemplateStrings.strip(text, characters, right: false))
        case "rstrip":
            return try renderer.made(TemplateStrings.strip(text, characters, left: false))
        case "upper": return try renderer.made(text.uppercased())
        case "lower", "casefold": return try renderer.made(text.lowercased())
        case "title": return try renderer.made(TemplateStrings.title(text))
        case "capitalize": return try renderer.made(TemplateStrings.capitalized(text))
        case "startswith":
            return .bool(
                try affixes(arguments, renderer).contains { text.utf8.starts(with: $0.utf8) }
            )
        case "endswith":
            return .bool(
                try affixes(arguments, renderer).contains {
                    text.utf8.reversed().starts(with: $0.utf8.reversed())
                }
            )
        case "removeprefix":
            let prefix = try part(0)
            let has = text.utf8.starts(with: prefix.utf8)
            let rest = text.unicodeScalars.dropFirst(prefix.unicodeScalars.count)
            return try renderer.made(has ? String(rest) : text)
        case "removesuffix":
            let suffix = try part(0)
            let has = text.utf8.reversed().starts(with: suffix.utf8.reversed())
            let rest = text.unicodeScalars.dropLast(suffix.unicodeScalars.count)
            return try renderer.made(has ? String(rest) : text)
        case "split", "rsplit":
            return .list(try split(name, text, arguments, renderer).map { .string($0) })
        case "splitlines":
            try renderer.charge(text.utf8.count)
            try renderer.charge(items: 1 + TemplateStrings.lineEnds(text))
            return .list(TemplateStrings.lines(text).map { .string($0) })
        case "replace":
            let most = arguments.value(2, "count")?.integer ?? .max
            return .string(try replaced(text, try part(0), try part(1), most, renderer))
        case "find", "index":
            let place = TemplateStrings.places(of: try part(0), in: text, most: 1).first
            if place == nil, name == "index" {
                throw renderer.failure("what is looked for is not in the text")
            }
            return .int(place ?? -1)
        case "rfind":
            let backwards = TemplateStrings.string(text.unicodeScalars.reversed())
            let part = try part(0).unicodeScalars.reversed()
            let place = TemplateStrings.places(
                of: TemplateStrings.string(part),
                in: backwards,
                most: 1
            ).first
            return .int(place.map { text.unicodeScalars.count - part.count - $0 } ?? -1)
        case "count": return .int(TemplateStrings.places(of: try part(0), in: text).count)
        case "join":
            guard let items = arguments.positional.first else {
                throw renderer.failure("join needs a list")
            }
            let separator = TemplateArguments(positional: [.string(text)])
            return try filter("join", items, separator, renderer)
        case "format": return .string(try TemplateFormat.braces(text, arguments, renderer))
        case "isdigit":
            return .bool(all(text) { $0.properties.numericType.map { $0 != .numeric } ?? false })
        case "isalpha": return .bool(all(text) { ScalarClasses.letters.contains($0.value) })
        case "isspace": return .bool(all(text, isSpace))
        case "isupper":
            return .bool(text.uppercased() == text && text.lowercased() != text)
        case "islower":
            return .bool(text.lowercased() == text && text.uppercased() != text)
        default: return nil
        }
    }

    private static func all(_ text: String, _ holds: (Unicode.Scalar) -> Bool) -> Bool {
        !text.isEmpty && text.unicodeScalars.allSatisfy(holds)
    }

    /// One text, or a list of them.
    private static func affixes(
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> [String] {
        guard let first = arguments.positional.first else {
            throw renderer.failure("a text is needed")
        }
        if let text = first.string { return [text] }
        if case .tuple(let items) = first { return items.compactMap(\.string) }
        throw renderer.failure("a \(first.typeName) where a text is needed")
    }

    private static func split(
        _ name: String,
        _ text: String,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> [String] {
        let given = arguments.value(1, "maxsplit")?.integer ?? -1
        let most = given < 0 ? Int.max : given
        try renderer.charge(text.utf8.count)
        guard let separator = arguments.value(0, "sep")?.string else {
            try renderer.charge(items: TemplateStrings.wordCount(text))
            return name == "split"
                ? TemplateStrings.words(text, most: most)
                : TemplateStrings.wordsFromRight(text, most: most)
        }
        if separator.isEmpty { throw renderer.failure("split by nothing") }
        try renderer.charge(items: 1 + TemplateStrings.places(of: separator, in: text).count)
        return name == "split"
            ? TemplateStrings.split(text, separator, most: most)
            : TemplateStrings.splitFromRight(text, separator, most: most)
    }
}

extension ScalarClasses {
    static let letters = category("L") ?? .none
}
