// Names from outside in messages: quoted, escaped, and too short to push the reason out of the line.

/// `name` in quotes, its middle left out beyond `limit` characters.
func quote(_ name: String, limit: Int = 120) -> String {
    let scalars = Array(name.unicodeScalars)
    var shown = scalars
    if scalars.count > limit {
        shown = scalars[..<(limit / 2)] + ["…"] + scalars[(scalars.count - limit / 2)...]
    }
    let mark: Unicode.Scalar = shown.contains("'") && !shown.contains("\"") ? "\"" : "'"
    var text = String(Character(mark))
    for scalar in shown {
        if scalar == mark || scalar == "\\" {
            text += "\\"
            text.unicodeScalars.append(scalar)
        } else {
            text += escaped(scalar)
        }
    }
    return text + String(Character(mark))
}

/// Bytes in quotes: printable ASCII as it is, the others as `\xNN`.
func quote(bytes: some Sequence<UInt8>) -> String {
    var text = "'"
    for byte in bytes {
        switch byte {
        case UInt8(ascii: "'"), UInt8(ascii: "\\"):
            text += "\\" + String(UnicodeScalar(byte))
        case 0x20..<0x7F:
            text += String(UnicodeScalar(byte))
        case UInt8(ascii: "\n"):
            text += "\\n"
        case UInt8(ascii: "\r"):
            text += "\\r"
        case UInt8(ascii: "\t"):
            text += "\\t"
        default:
            text += "\\x" + hex(UInt32(byte), digits: 2)
        }
    }
    return text + "'"
}

/// `text` with control characters escaped and its length bounded, so that hostile names cannot
/// break a terminal or a log line.
package func oneLine(_ text: String, limit: Int = 600) -> String {
    var safe = ""
    var count = 0
    for scalar in text.unicodeScalars {
        let piece = escaped(scalar)
        count += piece.unicodeScalars.count
        if count > limit {
            return safe + "…"
        }
        safe += piece
    }
    return safe
}

/// Whether every character can be printed: no control characters, no line breaks, no separators
/// but the space.
func isPrintable(_ text: String) -> Bool {
    text.unicodeScalars.allSatisfy(isPrintable)
}

/// Whether a name could do harm where it is printed or used as part of a path.
func isBadName(_ name: String) -> Bool {
    !isPrintable(name) || contains(name, "../")
}

/// Whether two texts have the same bytes; `==` asks whether Unicode calls them equivalent.
package func isSame(_ one: String, _ other: String) -> Bool {
    var (one, other) = (one, other)
    return one.withUTF8 { one in
        other.withUTF8 { one.count == $0.count && (one.isEmpty || one.elementsEqual($0)) }
    }
}

/// Whether `part` stands somewhere in `text`, byte for byte.
func contains(_ text: String, _ part: String) -> Bool {
    let (text, part) = (Array(text.utf8), Array(part.utf8))
    guard text.count >= part.count else { return false }
    return (0...(text.count - part.count)).contains { start in
        text[start..<(start + part.count)].elementsEqual(part)
    }
}

/// Digits of `value` in base 16, with zeros in front up to `digits`.
func hex(_ value: UInt32, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
}

private func escaped(_ scalar: Unicode.Scalar) -> String {
    if isPrintable(scalar) {
        return String(Character(scalar))
    }
    switch scalar {
    case "\n": return "\\n"
    case "\r": return "\\r"
    case "\t": return "\\t"
    default: break
    }
    switch scalar.value {
    case 0..<0x100: return "\\x" + hex(scalar.value, digits: 2)
    case 0x100..<0x10000: return "\\u" + hex(scalar.value, digits: 4)
    default: return "\\U" + hex(scalar.value, digits: 8)
    }
}

private func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.value < 0x7F {
        return scalar.value >= 0x20
    }
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned,
        .lineSeparator, .paragraphSeparator, .spaceSeparator:
        return false
    default:
        return true
    }
}
