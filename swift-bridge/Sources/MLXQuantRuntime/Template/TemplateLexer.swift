/// What a template consists of: text, and the inside of its tags.
enum TemplatePiece {
    case text(String)
    /// `{{ … }}`, its tokens and its line.
    case output([TemplateToken], line: Int)
    /// `{% … %}`
    case tag([TemplateToken], line: Int)
}

/// A word of the language within tags.
struct TemplateToken: Equatable {
    enum Kind: Equatable {
        case name(String)
        case int(Int)
        case float(Double)
        case string(String)
        case symbol(String)
    }

    let kind: Kind
    let line: Int
}

/// Cuts a template into text and tags, whitespace as chat templates have it: a line that holds
/// nothing but a tag leaves no trace (`trim_blocks`, `lstrip_blocks`).
struct TemplateLexer {
    private let source: [Unicode.Scalar]
    private var at = 0
    private var line = 1

    init(_ text: String) {
        var scalars: [Unicode.Scalar] = []
        scalars.reserveCapacity(text.unicodeScalars.count)
        for scalar in text.unicodeScalars {
            if scalar == "\n", scalars.last == "\r" { scalars.removeLast() }
            scalars.append(scalar)
        }
        scalars = scalars.map { $0 == "\r" ? "\n" : $0 }
        if scalars.last == "\n" { scalars.removeLast() }
        source = scalars
    }

    private func failure(_ reason: String) -> TemplateError {
        TemplateError(kind: .syntax, reason: reason, line: line)
    }

    private func isNext(_ text: StaticString, at place: Int) -> Bool {
        let count = text.utf8CodeUnitCount
        guard place + count <= source.count else { return false }
        return (0..<count).allSatisfy { source[place + $0].value == UInt32(text.utf8Start[$0]) }
    }

    mutating func pieces() throws(TemplateError) -> [TemplatePiece] {
        var pieces: [TemplatePiece] = []
        /// Whether the text that follows begins a line.
        var startsLine = true
        var stripsNext = false
        while at < source.count {
            let start = at
            while at < source.count, !isTag(at) { at += 1 }
            var text = source[start..<at]
            line += text.count { $0 == "\n" }
            if stripsNext { text = text.drop(while: isSpace) }
            let end = at
            guard at < source.count else {
                if !text.isEmpty { pieces.append(.text(string(text))) }
                break
            }
            let isOutput = source[at + 1] == "{"
            let mark = at + 2 < source.count ? source[at + 2] : " "
            if mark == "-" {
                while let last = text.last, isSpace(last) { text.removeLast() }
            } else if mark != "+", !isOutput {
                stripLine(&text, startsLine: startsLine, isWhole: text.startIndex == start)
            }
            if !text.isEmpty { pieces.append(.text(string(text))) }
            at = end + 2
            let kind = source[end + 1]
            if mark == "-" || mark == "+" { at += 1 }
            if kind == "#" {
                stripsNext = try skipComment()
            } else {
                let first = line
                let (tokens, strips) = try tokens(endingIn: isOutput ? "}}" : "%}")
                stripsNext = strips
                if !isOutput, tokens.first?.kind == .name("raw") {
                    // what comes next is the raw text, with the newline
                    if source[at - 1] == "\n" { (at, line) = (at - 1, line - 1) }
                    pieces.append(.text(try rawText(&stripsNext)))
                } else {
                    let piece: TemplatePiece =
                        isOutput ? .output(tokens, line: first) : .tag(tokens, line: first)
                    pieces.append(piece)
                }
            }
            startsLine = at > 0 && source[at - 1] == "\n"
        }
        return pieces
    }

    private func isTag(_ place: Int) -> Bool {
        source[place] == "{" && place + 1 < source.count
            && (source[place + 1] == "%" || source[place + 1] == "{" || source[place + 1] == "#")
    }

    private func string(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        String(String.UnicodeScalarView(scalars))
    }

    /// Takes the indentation of a tag off the text before it.
    private func stripLine(
        _ text: inout ArraySlice<Unicode.Scalar>,
        startsLine: Bool,
        isWhole: Bool
    ) {
        let newline = text.lastIndex(of: "\n")
        guard newline != nil || (startsLine && isWhole) else { return }
        let from = newline.map { $0 + 1 } ?? text.startIndex
        if text[from...].allSatisfy(isSpace) { text = text[..<from] }
    }

    /// Goes on behind a comment; whether it strips what follows.
    private mutating func skipComment() throws(TemplateError) -> Bool {
        while at + 1 < source.count {
            if isNext("#}", at: at) {
                let strips = source[at - 1] == "-"
                let keeps = source[at - 1] == "+"
                at += 2
                if !strips && !keeps { skipNewline() }
                return strips
            }
            if source[at] == "\n" { line += 1 }
            at += 1
        }
        throw failure("a comment is not closed")
    }

    private mutating func skipNewline() {
        if at < source.count, source[at] == "\n" {
            at += 1
            line += 1
        }
    }

    /// The text up to `{% endraw %}`.
    private mutating func rawText(_ strips: inout Bool) throws(TemplateError) -> String {
        let start = at
        while at < source.count {
            if isNext("{%", at: at), let tag = endOfRaw(at) {
                var text = source[start..<at]
                if strips { text = text.drop(while: isSpace) }
                if tag.before == "-" {
                    while let last = text.last, isSpace(last) { text.removeLast() }
                } else if tag.before == nil {
                    stripLine(&text, startsLine: false, isWhole: false)
                }
                line += source[at..<tag.end].count { $0 == "\n" }
                at = tag.end
                strips = tag.stripsNext
                if !strips { skipNewline() }
                return string(text)
            }
            if source[at] == "\n" { line += 1 }
            at += 1
        }
        throw failure("a raw block is not closed")
    }

    /// Where `{% endraw %}` at a place ends, its mark before the name, and whether it strips what
    /// follows; nil for another tag.
    private func endOfRaw(
        _ start: Int
    ) -> (end: Int, before: Unicode.Scalar?, stripsNext: Bool)? {
        var place = start + 2
        func skipSpace() { while place < source.count, isSpace(source[place]) { place += 1 } }
        func mark() -> Unicode.Scalar? {
            guard place < source.count, source[place] == "-" || source[place] == "+" else {
                return nil
            }
            place += 1
            return source[place - 1]
        }
        let first = mark()
        skipSpace()
        guard isNext("endraw", at: place) else { return nil }
        place += 6
        skipSpace()
        let last = mark()
        guard isNext("%}", at: place) else { return nil }
        return (place + 2, first, last == "-")
    }

    /// The tokens up to the end of a tag, and whether it strips what follows.
    private mutating func tokens(
        endingIn end: StaticString
    ) throws(TemplateError) -> ([TemplateToken], Bool) {
        var tokens: [TemplateToken] = []
        let isTag = end.utf8Start[0] == UInt8(ascii: "%")
        /// Braces and their kin that are open: `}}` may close two dictionaries.
        var open = 0
        while at < source.count {
            let next = source[at]
            if isSpace(next) {
                if next == "\n" { line += 1 }
                at += 1
                continue
            }
            if open == 0 {
                if (next == "-" || next == "+") && isNext(end, at: at + 1) {
                    at += 3
                    return (tokens, next == "-")
                }
                if isNext(end, at: at) {
                    at += 2
                    if isTag { skipNewline() }
                    return (tokens, false)
                }
            }
            let token = try token()
            if case .symbol(let symbol) = token {
                if "([{".contains(symbol) { open += 1 }
                if ")]}".contains(symbol) { open -= 1 }
            }
            tokens.append(TemplateToken(kind: token, line: line))
        }
        throw failure("a tag is not closed")
    }

    private static let symbols = [
        "==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")",
        "[", "]", "{", "}", ",", ".", ":", "|",
    ].map { (text: $0, scalars: Array($0.unicodeScalars)) }

    private mutating func token() throws(TemplateError) -> TemplateToken.Kind {
        let next = source[at]
        if next == "'" || next == "\"" { return .string(try quoted(next)) }
        if isDigit(next) { return try number() }
        if isLetter(next) {
            let start = at
            while at < source.count, isLetter(source[at]) || isDigit(source[at]) { at += 1 }
            return .name(string(source[start..<at]))
        }
        for symbol in Self.symbols {
            let end = at + symbol.scalars.count
            if end <= source.count, source[at..<end].elementsEqual(symbol.scalars) {
                at = end
                return .symbol(symbol.text)
            }
        }
        throw failure("unexpected character \(quotedForMessage(next))")
    }

    private func quotedForMessage(_ scalar: Unicode.Scalar) -> String {
        "'" + scalar.escaped(asASCII: false) + "'"
    }

    private mutating func number() throws(TemplateError) -> TemplateToken.Kind {
        let start = at
        var isFloat = false
        while at < source.count {
            let scalar = source[at]
            if isDigit(scalar) || scalar == "_" {
                at += 1
            } else if scalar == ".", !isFloat, at + 1 < source.count, isDigit(source[at + 1]) {
                isFloat = true
                at += 1
            } else if scalar == "e" || scalar == "E", let digit = exponent(at + 1) {
                isFloat = true
                at = digit
            } else {
                break
            }
        }
        let text = string(source[start..<at]).filter { $0 != "_" }
        if isFloat, let value = Double(text) { return .float(value) }
        guard let value = Int(text) else { throw failure("the number \(text) is too large") }
        return .int(value)
    }

    /// The first digit of an exponent, which may have a sign before it; nil where there is none.
    private func exponent(_ place: Int) -> Int? {
        let signed = place < source.count && (source[place] == "-" || source[place] == "+")
        let digit = signed ? place + 1 : place
        return digit < source.count && isDigit(source[digit]) ? digit : nil
    }

    private mutating func quoted(_ mark: Unicode.Scalar) throws(TemplateError) -> String {
        at += 1
        var text = String.UnicodeScalarView()
        while at < source.count {
            let scalar = source[at]
            at += 1
            if scalar == mark { return String(text) }
            if scalar == "\n" { line += 1 }
            guard scalar == "\\", at < source.count else {
                text.append(scalar)
                continue
            }
            let kind = source[at]
            at += 1
            switch kind {
            case "n": text.append("\n")
            case "t": text.append("\t")
            case "r": text.append("\r")
            case "b": text.append("\u{8}")
            case "f": text.append("\u{C}")
            case "v": text.append("\u{B}")
            case "a": text.append("\u{7}")
            case "0": text.append("\0")
            case "\\", "'", "\"": text.append(kind)
            case "\n": line += 1
            case "x": text.append(try character(digits: 2))
            case "u": text.append(try character(digits: 4))
            case "U": text.append(try character(digits: 8))
            default:
                text.append("\\")
                text.append(kind)
            }
        }
        throw failure("a text is not closed")
    }

    private mutating func character(digits: Int) throws(TemplateError) -> Unicode.Scalar {
        guard at + digits <= source.count,
            let code = UInt32(string(source[at..<(at + digits)]), radix: 16),
            let scalar = Unicode.Scalar(code)
        else { throw failure("an escape is no character's number") }
        at += digits
        return scalar
    }
}

private func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }

private func isLetter(_ scalar: Unicode.Scalar) -> Bool {
    scalar == "_" || ("a"..."z").contains(scalar) || ("A"..."Z").contains(scalar)
}

/// What Python's `str.isspace` says.
func isSpace(_ scalar: Unicode.Scalar) -> Bool {
    (0x1C...0x1F).contains(scalar.value) || ScalarClasses.whitespace.contains(scalar.value)
}
