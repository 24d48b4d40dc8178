/// Reads the language within a template's tags.
struct TemplateParser {
    private let pieces: [TemplatePiece]
    private var next = 0
    private(set) var tokens: [TemplateToken] = []
    var at = 0
    var line = 1
    var depth = 0
    /// Whether a tag that was read names `loop`.
    private var namesLoop = false

    /// Levels of tags, parentheses and operators within one another.
    static let deepest = 64
    /// Arguments of a call, and parameters of a macro.
    static let mostArguments = 64

    init(_ source: String) throws(TemplateError) {
        var lexer = TemplateLexer(source)
        pieces = try lexer.pieces()
    }

    mutating func parse() throws(TemplateError) -> [TemplateNode] {
        let (nodes, end) = try nodes(until: [])
        assert(end.isEmpty)
        return nodes
    }

    func failure(_ reason: String) -> TemplateError {
        TemplateError(kind: .syntax, reason: reason, line: line)
    }

    // MARK: Tags

    /// What stands before a tag with one of these names, and that name; the rest of that tag is
    /// `tokens`.
    private mutating func nodes(
        until ends: Set<String>
    ) throws(TemplateError) -> ([TemplateNode], String) {
        try enter()
        defer { depth -= 1 }
        var nodes: [TemplateNode] = []
        while next < pieces.count {
            let piece = pieces[next]
            next += 1
            switch piece {
            case .text(let text):
                nodes.append(.text(text))
            case .output(let found, let first):
                begin(found, first)
                let value = try tuple()
                try finish()
                nodes.append(.output(value, line: first))
            case .tag(let found, let first):
                begin(found, first)
                guard let name = name() else { throw failure("a tag without a name") }
                if ends.contains(name) { return (nodes, name) }
                nodes.append(try tag(name, first))
            }
        }
        if !ends.isEmpty {
            throw failure("the template ends before \(ends.sorted().joined(separator: " or "))")
        }
        return (nodes, "")
    }

    mutating func enter() throws(TemplateError) {
        depth += 1
        if depth > Self.deepest { throw failure("nested deeper than \(Self.deepest)") }
    }

    private mutating func begin(_ found: [TemplateToken], _ first: Int) {
        (tokens, at, line) = (found, 0, first)
        if found.contains(where: { $0.kind == .name("loop") }) { namesLoop = true }
    }

    private func finish() throws(TemplateError) {
        if at < tokens.count { throw failure("unexpected \(shown(tokens[at]))") }
    }

    private mutating func tag(_ name: String, _ first: Int) throws(TemplateError) -> TemplateNode {
        switch name {
        case "if": return try branch(first)
        case "for": return try loop(first)
        case "set": return try assignment(first)
        case "macro": return try macro()
        case "with": return try scope(first)
        case "generation":
            try finish()
            let (body, _) = try nodes(until: ["endgeneration"])
            try finish()
            return .scope([], body, line: first)
        case "break":
            try finish()
            return .breakLoop
        case "continue":
            try finish()
            return .continueLoop
        default:
            throw failure("the tag \(quoted(name)) is not supported here")
        }
    }

    private mutating func branch(_ first: Int) throws(TemplateError) -> TemplateNode {
        var branches: [(TemplateExpression, [TemplateNode])] = []
        var otherwise: [TemplateNode] = []
        var condition = try tuple()
        try finish()
        while true {
            let (body, end) = try nodes(until: ["elif", "else", "endif"])
            branches.append((condition, body))
            if end == "elif" {
                condition = try tuple()
                try finish()
                continue
            }
            try finish()
            if end == "else" {
                otherwise = try nodes(until: ["endif"]).0
                try finish()
            }
            return .branch(branches, otherwise: otherwise, line: first)
        }
    }

    private mutating func loop(_ first: Int) throws(TemplateError) -> TemplateNode {
        let target = try target()
        guard take(word: "in") else { throw failure("a loop without 'in'") }
        let items = try tuple(withConditional: false)
        let condition = take(word: "if") ? try expression() : nil
        try finish()
        let outside = namesLoop
        namesLoop = false
        let (body, end) = try nodes(until: ["else", "endfor"])
        try finish()
        let usesLoop = namesLoop
        namesLoop = usesLoop || outside
        var otherwise: [TemplateNode] = []
        if end == "else" {
            otherwise = try nodes(until: ["endfor"]).0
            try finish()
        }
        let loop = TemplateLoop(
            target: target,
            items: items,
            condition: condition,
            body: body,
            usesLoop: usesLoop,
            otherwise: otherwise
        )
        return .loop(loop, line: first)
    }

    private mutating func assignment(_ first: Int) throws(TemplateError) -> TemplateNode {
        let target = try target()
        if take("=") {
            let value = try tuple()
            try finish()
            return .set(target, value, line: first)
        }
        var filters: [(String, TemplateCall)] = []
        while take("|") { filters.append(try filterCall()) }
        try finish()
        let (body, _) = try nodes(until: ["endset"])
        try finish()
        return .capture(target, filters, body, line: first)
    }

    private mutating func target() throws(TemplateError) -> TemplateTarget {
        let parenthesis = take("(")
        guard let first = name() else { throw failure("a name expected") }
        if take(".") {
            guard let attribute = name() else { throw failure("an attribute's name expected") }
            return .attribute(first, attribute)
        }
        var names = [first]
        while take(",") {
            guard let more = name() else { break }
            names.append(more)
        }
        if parenthesis, !take(")") { throw failure("')' expected") }
        return names.count == 1 ? .name(first) : .names(names)
    }

    private mutating func macro() throws(TemplateError) -> TemplateNode {
        guard let title = name(), take("(") else { throw failure("a macro's name and '('") }
        var parameters: [(String, TemplateExpression?)] = []
        while !take(")") {
            if !parameters.isEmpty, !take(",") { throw failure("',' expected") }
            guard let parameter = name() else { throw failure("a parameter's name expected") }
            parameters.append((parameter, take("=") ? try expression() : nil))
            if parameters.count > Self.mostArguments { throw failure("too many parameters") }
        }
        try finish()
        let (body, _) = try nodes(until: ["endmacro"])
        at = tokens.count  // the name may stand behind endmacro
        return .macro(TemplateMacro(name: title, parameters: parameters, body: body))
    }

    private mutating func scope(_ first: Int) throws(TemplateError) -> TemplateNode {
        var values: [(String, TemplateExpression)] = []
        while at < tokens.count {
            if !values.isEmpty, !take(",") { throw failure("',' expected") }
            guard let title = name(), take("=") else { throw failure("a name and '=' expected") }
            values.append((title, try expression()))
        }
        let (body, _) = try nodes(until: ["endwith"])
        try finish()
        return .scope(values, body, line: first)
    }

    // MARK: Tokens

    func peek(_ symbol: String) -> Bool {
        at < tokens.count && tokens[at].kind == .symbol(symbol)
    }

    mutating func take(_ symbol: String) -> Bool {
        guard peek(symbol) else { return false }
        at += 1
        return true
    }

    mutating func take(word: String) -> Bool {
        guard at < tokens.count, tokens[at].kind == .name(word) else { return false }
        at += 1
        return true
    }

    mutating func name() -> String? {
        guard at < tokens.count, case .name(let name) = tokens[at].kind else { return nil }
        line = tokens[at].line
        at += 1
        return name
    }

    func shown(_ token: TemplateToken) -> String {
        switch token.kind {
        case .name(let name): quoted(name)
        case .int(let value): "\(value)"
        case .float(let value): "\(value)"
        case .string(let text): quoted(text)
        case .symbol(let symbol): quoted(symbol)
        }
    }
}
