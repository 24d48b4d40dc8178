/// Values as text: as `str`, `repr` and `json.dumps` write them.
extension TemplateValue {
    /// Python's `str`.
    var text: String {
        switch self {
        case .undefined: ""
        case .string(let text): text
        default: represented
        }
    }

    /// Python's `repr`.
    var represented: String {
        switch self {
        case .undefined: return "Undefined"
        case .none: return "None"
        case .bool(let value): return value ? "True" : "False"
        case .int(let value): return String(value)
        case .float(let value): return pythonText(value)
        case .string(let text): return pythonText(text)
        case .list(let items):
            return "[" + items.map(\.represented).joined(separator: ", ") + "]"
        case .tuple(let items):
            let texts = items.map(\.represented)
            return "(" + (texts.count == 1 ? texts[0] + "," : texts.joined(separator: ", ")) + ")"
        case .dictionary(let dictionary):
            let members = dictionary.members.map {
                "\(pythonText($0.key)): \($0.value.represented)"
            }
            return "{" + members.joined(separator: ", ") + "}"
        case .namespace: return "<Namespace>"
        case .function(let function): return "<function \(function.name)>"
        }
    }

    /// How JSON is written.
    struct JSONStyle {
        /// Spaces a level is indented by; nil for one line.
        var indent: String?
        var item = ", "
        var colon = ": "
        var isASCII = false
        var sortsKeys = false
    }

    /// JSON, as `json.dumps` writes it; nil for what JSON has no place for.
    func json(_ style: JSONStyle, depth: Int = 0) -> String? {
        switch self {
        case .undefined, .namespace, .function: return nil
        case .none: return "null"
        case .bool(let value): return value ? "true" : "false"
        case .int(let value): return String(value)
        case .float(let value):
            if value.isNaN { return "NaN" }
            if value.isInfinite { return value < 0 ? "-Infinity" : "Infinity" }
            return pythonText(value)
        case .string(let text): return jsonText(text, isASCII: style.isASCII)
        case .list(let items), .tuple(let items):
            var parts: [String] = []
            for item in items {
                guard let part = item.json(style, depth: depth + 1) else { return nil }
                parts.append(part)
            }
            return enclosed(parts, "[", "]", style, depth)
        case .dictionary(let dictionary):
            var members = dictionary.members
            if style.sortsKeys {
                members.sort {
                    $0.key.unicodeScalars.lexicographicallyPrecedes($1.key.unicodeScalars)
                }
            }
            var parts: [String] = []
            for (key, value) in members {
                guard let part = value.json(style, depth: depth + 1) else { return nil }
                parts.append(jsonText(key, isASCII: style.isASCII) + style.colon + part)
            }
            return enclosed(parts, "{", "}", style, depth)
        }
    }

    private func enclosed(
        _ parts: [String],
        _ open: String,
        _ close: String,
        _ style: JSONStyle,
        _ depth: Int
    ) -> String {
        guard let indent = style.indent, !parts.isEmpty else {
            return open + parts.joined(separator: style.item) + close
        }
        let outer = "\n" + String(repeating: indent, count: depth)
        // With an indent, lines end in the separator without its space.
        let separator = style.item == ", " ? "," : style.item
        return open + outer + indent + parts.joined(separator: separator + outer + indent) + outer
            + close
    }
}

/// A number as Python writes it.
func pythonText(_ value: Double) -> String {
    if value.isNaN { return "nan" }
    if value.isInfinite { return value < 0 ? "-inf" : "inf" }
    // Swift's shortest digits are Python's; the exponent's form and its limits differ.
    let text = value.description
    guard let mark = text.firstIndex(of: "e") else {
        if value.magnitude >= 1e16 { return pythonExponent(text) }
        return value != 0 && value.magnitude < 1e-4 ? pythonExponent(text) : text
    }
    guard let exponent = Int(text[text.index(after: mark)...]) else { return text }
    var digits = String(text[..<mark])
    if digits.hasSuffix(".0") { digits.removeLast(2) }
    if (-4..<16).contains(exponent) { return plain(digits, exponent) }
    let size = exponent.magnitude
    return "\(digits)e\(exponent < 0 ? "-" : "+")\(size < 10 ? "0" : "")\(size)"
}

/// Digits such as `0.00001` or `12345678901234567.0` with an exponent.
private func pythonExponent(_ text: String) -> String {
    let negative = text.hasPrefix("-")
    let parts = text.drop { $0 == "-" }.split(separator: ".", omittingEmptySubsequences: false)
    let whole = parts[0]
    let fraction = parts.count > 1 && parts[1] != "0" ? parts[1] : ""
    var digits = Array(whole + fraction)
    var exponent = whole.count - 1
    while digits.count > 1, digits.first == "0" {
        digits.removeFirst()
        exponent -= 1
    }
    while digits.count > 1, digits.last == "0" { digits.removeLast() }
    var result = String(digits[0])
    if digits.count > 1 { result += "." + String(digits[1...]) }
    let size = exponent.magnitude
    return (negative ? "-" : "") + result
        + "e\(exponent < 0 ? "-" : "+")\(size < 10 ? "0" : "")\(size)"
}

/// Digits with an exponent written out.
private func plain(_ digits: String, _ exponent: Int) -> String {
    let negative = digits.hasPrefix("-")
    let bare = digits.filter { $0 != "-" && $0 != "." }
    var text: String
    if exponent < 0 {
        text = "0." + String(repeating: "0", count: -exponent - 1) + bare
    } else if bare.count <= exponent + 1 {
        text = bare + String(repeating: "0", count: exponent + 1 - bare.count) + ".0"
    } else {
        text = bare.prefix(exponent + 1) + "." + bare.dropFirst(exponent + 1)
    }
    if negative { text = "-" + text }
    return text
}

/// Text in quotes as Python writes it.
private func pythonText(_ text: String) -> String {
    let mark: Unicode.Scalar = text.utf8.contains(0x27) && !text.utf8.contains(0x22) ? "\"" : "'"
    var shown = String(mark)
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\\": shown += "\\\\"
        case "\n": shown += "\\n"
        case "\r": shown += "\\r"
        case "\t": shown += "\\t"
        case mark: shown += "\\" + String(scalar)
        default:
            let code = scalar.value
            if code < 0x20 || (0x7F...0xA0).contains(code) || code == 0xAD {
                shown += "\\x" + hexadecimal(code, digits: 2)
            } else {
                shown.unicodeScalars.append(scalar)
            }
        }
    }
    return shown + String(mark)
}

/// Text in quotes as JSON.
private func jsonText(_ text: String, isASCII: Bool) -> String {
    var shown = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": shown += "\\\""
        case "\\": shown += "\\\\"
        case "\n": shown += "\\n"
        case "\r": shown += "\\r"
        case "\t": shown += "\\t"
        case "\u{8}": shown += "\\b"
        case "\u{C}": shown += "\\f"
        default:
            if scalar.value < 0x20 || (isASCII && scalar.value > 0x7E) {
                for unit in String(scalar).utf16 {
                    shown += "\\u" + hexadecimal(UInt32(unit), digits: 4)
                }
            } else {
                shown.unicodeScalars.append(scalar)
            }
        }
    }
    return shown + "\""
}

private func hexadecimal(_ value: UInt32, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
}
