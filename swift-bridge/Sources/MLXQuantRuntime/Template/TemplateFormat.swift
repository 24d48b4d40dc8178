#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Python's two ways to put values into a text: `'%-5s' % x` and `'{:>5}'.format(x)`.
struct TemplateFormat {
    private var fill: Unicode.Scalar = " "
    private var alignment: Unicode.Scalar?
    private var sign: Unicode.Scalar = "-"
    private var width = 0
    private var precision: Int?
    private var type: Unicode.Scalar = "s"

    /// The widest field and the most digits.
    static let widest = 1000

    // MARK: With %

    /// The text with values in place of `%s` and its kin.
    static func percent(
        _ text: String,
        _ arguments: [TemplateValue],
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        var values = arguments[...]
        var result = String.UnicodeScalarView()
        var rest = Array(text.unicodeScalars)[...]
        while let scalar = rest.popFirst() {
            guard scalar == "%" else {
                result.append(scalar)
                continue
            }
            if rest.first == "%" {
                rest.removeFirst()
                result.append("%")
                continue
            }
            var format = TemplateFormat()
            while let flag = rest.first, "-+ 0#".unicodeScalars.contains(flag) {
                rest.removeFirst()
                if flag == "-" { format.alignment = "<" }
                if flag == "0", format.alignment == nil { format.fill = "0" }
                if flag == "+" || flag == " " { format.sign = flag }
            }
            try format.readSize(&rest, renderer)
            guard let type = rest.popFirst(), let value = values.popFirst() else {
                throw renderer.failure("a format with too few values")
            }
            format.type = type
            if format.fill == "0" { format.alignment = format.alignment ?? "=" }
            if format.alignment == "<" { format.fill = " " }
            result.append(
                contentsOf: try format.written(value, "sdifuxr", ">", renderer).unicodeScalars
            )
        }
        return String(result)
    }

    // MARK: With braces

    /// The text with values in place of `{}` and its kin.
    static func braces(
        _ text: String,
        _ arguments: TemplateArguments,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        var next = 0
        var result = String.UnicodeScalarView()
        var rest = Array(text.unicodeScalars)[...]
        while let scalar = rest.popFirst() {
            guard scalar == "{" || scalar == "}" else {
                result.append(scalar)
                continue
            }
            if rest.first == scalar {
                rest.removeFirst()
                result.append(scalar)
                continue
            }
            guard scalar == "{", let end = rest.firstIndex(of: "}") else {
                throw renderer.failure("a brace alone in a format")
            }
            var field = rest[..<end]
            rest = rest[(end + 1)...]
            let name = TemplateStrings.string(field.prefix { $0 != ":" })
            field = field.drop { $0 != ":" }.dropFirst()
            let value: TemplateValue?
            if name.isEmpty || Int(name) != nil {
                let place = Int(name) ?? next
                next += 1
                let values = arguments.positional
                value = values.indices.contains(place) ? values[place] : nil
            } else {
                value = arguments.named.last { $0.0 == name }?.1
            }
            guard let value else { throw renderer.failure("a format with too few values") }
            let format = try TemplateFormat(&field, renderer)
            let start: Unicode.Scalar = value.number == nil ? "<" : ">"
            let written = try format.written(value, "sdfx", start, renderer)
            result.append(contentsOf: written.unicodeScalars)
        }
        return String(result)
    }

    private init() {}

    private init(
        _ text: inout ArraySlice<Unicode.Scalar>,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) {
        let alignments = "<>^=".unicodeScalars
        if text.count > 1, alignments.contains(text[text.startIndex + 1]) {
            fill = text.removeFirst()
            alignment = text.removeFirst()
        } else if let first = text.first, alignments.contains(first) {
            alignment = text.removeFirst()
        }
        if let first = text.first, "+- ".unicodeScalars.contains(first) {
            sign = text.removeFirst()
        }
        if text.first == "0" {
            fill = "0"
            alignment = alignment ?? "="
        }
        try readSize(&text, renderer)
        if let last = text.popFirst() { type = last }
        if !text.isEmpty { throw renderer.failure("a format that is not supported") }
    }

    /// Width and precision.
    private mutating func readSize(
        _ text: inout ArraySlice<Unicode.Scalar>,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) {
        func number(_ text: inout ArraySlice<Unicode.Scalar>) throws(TemplateError) -> Int {
            var value = 0
            while let digit = text.first, ("0"..."9").contains(digit) {
                text.removeFirst()
                value = value * 10 + Int(digit.value - 0x30)
                if value > widest { throw renderer.failure("a format wider than \(widest)") }
            }
            return value
        }
        let widest = Self.widest
        width = try number(&text)
        if text.first == "." {
            text.removeFirst()
            precision = try number(&text)
        }
    }

    private func written(
        _ value: TemplateValue,
        _ types: String,
        _ standard: Unicode.Scalar,
        _ renderer: TemplateRenderer
    ) throws(TemplateError) -> String {
        guard types.unicodeScalars.contains(type) else {
            throw renderer.failure("the format \(quoted(String(type))) is not supported")
        }
        var prefix = ""
        var body: String
        switch type {
        case "f":
            guard let number = value.number, number.magnitude < 1e15 else {
                throw renderer.failure("the format 'f' of a \(value.typeName)")
            }
            (prefix, body) = signed(number < 0, fixed(number.magnitude, min(15, precision ?? 6)))
        case "d", "i", "u", "x":
            guard let number = value.number, let integer = Int(exactly: number.rounded(.towardZero))
            else { throw renderer.failure("the format 'd' of a \(value.typeName)") }
            let digits = String(integer.magnitude, radix: type == "x" ? 16 : 10)
            (prefix, body) = signed(integer < 0, digits)
        case "r":
            // A list shows its items so, between brackets.
            body = try renderer.text(of: .list([value]))
            body = String(body.unicodeScalars.dropFirst().dropLast())
        default:
            body = try renderer.text(of: value)
            if let precision {
                try renderer.look(through: body.utf8.count)
                body = TemplateStrings.string(body.unicodeScalars.prefix(precision))
            }
        }
        try renderer.charge(width + body.utf8.count)
        let missing = width - prefix.unicodeScalars.count - body.unicodeScalars.count
        if missing > 0 {
            let padding = TemplateStrings.string(Array(repeating: fill, count: missing))
            switch alignment ?? standard {
            case "<": return prefix + body + padding
            case "=": return prefix + padding + body
            case "^":
                let before = missing / 2
                return TemplateStrings.string(Array(repeating: fill, count: before)) + prefix + body
                    + TemplateStrings.string(Array(repeating: fill, count: missing - before))
            default: return padding + prefix + body
            }
        }
        return prefix + body
    }

    private func signed(_ isNegative: Bool, _ digits: String) -> (String, String) {
        (isNegative ? "-" : sign == "-" ? "" : String(sign), digits)
    }

    /// Digits behind the point, the last one rounded to even.
    private func fixed(_ value: Double, _ digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let whole = value.rounded(.down)
        var fraction = ((value - whole) * scale).rounded(.toNearestOrEven)
        var units = whole
        if fraction >= scale { (units, fraction) = (units + 1, 0) }
        if digits == 0 { return String(Int(value.rounded(.toNearestOrEven))) }
        let text = String(Int(fraction))
        return String(Int(units)) + "."
            + String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
    }
}

/// The local time, as `strftime` writes it.
func localTime(_ format: String) -> String {
    var now = time(nil)
    var parts = tm()
    localtime_r(&now, &parts)
    var buffer = [CChar](repeating: 0, count: 512)
    // A leading character tells an empty result from one that did not fit.
    let length = strftime(&buffer, buffer.count, " " + format, &parts)
    return String(
        decoding: buffer[..<length].dropFirst().map { UInt8(bitPattern: $0) },
        as: UTF8.self
    )
}
