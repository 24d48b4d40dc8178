/// Python's methods of texts, by scalars.
enum TemplateStrings {
    typealias Scalars = [Unicode.Scalar]

    static func string(_ scalars: some Sequence<Unicode.Scalar>) -> String {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        return String(view)
    }

    /// Where a part is, from left to right and apart from one another, by scalars; in linear time.
    static func places(of part: String, in text: String, most: Int = .max) -> [Int] {
        let wanted = Array(part.unicodeScalars)
        if wanted.isEmpty { return [0] }
        // Knuth, Morris and Pratt: how much of the part is matched if the next scalar fails.
        var border = [Int](repeating: 0, count: wanted.count)
        var length = 0
        for index in wanted.indices.dropFirst() {
            while length > 0, wanted[index] != wanted[length] { length = border[length - 1] }
            if wanted[index] == wanted[length] { length += 1 }
            border[index] = length
        }
        var found: [Int] = []
        var matched = 0
        for (index, scalar) in text.unicodeScalars.enumerated() {
            if found.count == most { break }
            while matched > 0, scalar != wanted[matched] { matched = border[matched - 1] }
            if scalar == wanted[matched] { matched += 1 }
            if matched == wanted.count {
                found.append(index - matched + 1)
                matched = 0
            }
        }
        return found
    }

    static func strip(
        _ text: String,
        _ characters: String?,
        left: Bool = true,
        right: Bool = true
    ) -> String {
        let wanted = characters.map { Set($0.unicodeScalars) }
        func goes(_ scalar: Unicode.Scalar) -> Bool {
            wanted.map { $0.contains(scalar) } ?? isSpace(scalar)
        }
        var kept = Substring(text).unicodeScalars
        if left { kept = kept.drop(while: goes) }
        if right { while let last = kept.last, goes(last) { kept.removeLast() } }
        return String(kept)
    }

    static func replace(_ text: String, _ part: String, _ other: String, most: Int) -> String {
        if part.isEmpty { return text }
        return split(text, part, most: most).joined(separator: other)
    }

    static func split(_ text: String, _ part: String, most: Int) -> [String] {
        let scalars = Array(text.unicodeScalars)
        let length = part.unicodeScalars.count
        var pieces: [String] = []
        var at = 0
        for place in places(of: part, in: text, most: most) {
            pieces.append(string(scalars[at..<place]))
            at = place + length
        }
        pieces.append(string(scalars[at...]))
        return pieces
    }

    /// At whitespace, as `split()` does without an argument.
    static func words(_ text: String, most: Int) -> [String] {
        var rest = Substring(text).unicodeScalars.drop(while: isSpace)
        var words: [String] = []
        while !rest.isEmpty {
            if words.count == most {
                words.append(String(rest))
                break
            }
            let word = rest.prefix { !isSpace($0) }
            words.append(String(word))
            rest = rest[word.endIndex...].drop(while: isSpace)
        }
        return words
    }

    /// The same, but that the most words are counted from the right.
    static func wordsFromRight(_ text: String, most: Int) -> [String] {
        let backwards = string(text.unicodeScalars.reversed())
        return words(backwards, most: most).reversed().map { string($0.unicodeScalars.reversed()) }
    }

    /// How many words there are.
    static func wordCount(_ text: String) -> Int {
        var count = 0
        var inWord = false
        for scalar in text.unicodeScalars {
            let isPart = !isSpace(scalar)
            if isPart, !inWord { count += 1 }
            inWord = isPart
        }
        return count
    }

    /// From the right.
    static func splitFromRight(_ text: String, _ part: String, most: Int) -> [String] {
        let pieces = split(text, part, most: .max)
        guard most < pieces.count - 1 else { return pieces }
        let first = pieces[..<(pieces.count - most)].joined(separator: part)
        return [first] + pieces[(pieces.count - most)...]
    }

    private static func endsLine(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0xA...0xD, 0x1C...0x1E, 0x85, 0x2028, 0x2029: true
        default: false
        }
    }

    /// How many characters end a line.
    static func lineEnds(_ text: String) -> Int { text.unicodeScalars.count(where: endsLine) }

    static func lines(_ text: String) -> [String] {
        var lines: [String] = []
        var line = String.UnicodeScalarView()
        var previous: Unicode.Scalar = " "
        for scalar in text.unicodeScalars {
            if scalar == "\n", previous == "\r" {
                previous = scalar
                continue
            }
            previous = scalar
            if endsLine(scalar) {
                lines.append(String(line))
                line = String.UnicodeScalarView()
            } else {
                line.append(scalar)
            }
        }
        if !line.isEmpty { lines.append(String(line)) }
        return lines
    }

    /// Each word's first letter large and the others small.
    static func title(_ text: String) -> String {
        var result = ""
        var inWord = false
        for scalar in text.unicodeScalars {
            let properties = scalar.properties
            result += inWord ? properties.lowercaseMapping : properties.titlecaseMapping
            inWord = properties.isCased
        }
        return result
    }

    /// The first letter of what stands between spaces, hyphens and opening brackets large and the
    /// others small, as Jinja's filter has it.
    static func titleOfWords(_ text: String) -> String {
        text.unicodeScalars.split(omittingEmptySubsequences: false, whereSeparator: endsWord)
            .reduce(into: (result: "", end: text.startIndex)) { title, word in
                title.result += text[title.end..<word.startIndex]
                if let first = word.first {
                    let rest = string(word.dropFirst()).lowercased()
                    title.result += first.properties.uppercaseMapping + rest
                }
                title.end = word.endIndex
            }.result
    }

    private static func endsWord(_ scalar: Unicode.Scalar) -> Bool {
        isSpace(scalar) || "-({[<".unicodeScalars.contains(scalar)
    }

    static func capitalized(_ text: String) -> String {
        guard let first = text.unicodeScalars.first else { return text }
        return first.properties.titlecaseMapping
            + string(text.unicodeScalars.dropFirst()).lowercased()
    }
}
