import Testing

@testable import MLXQuantRuntime

private func found(_ expression: String, _ text: String) throws -> [String] {
    let scalars = text.unicodeScalars.map(\.value)
    var budget = SearchBudget()
    return try Pattern(expression).matches(in: scalars[...], &budget).map { range in
        String(String.UnicodeScalarView(scalars[range].compactMap(Unicode.Scalar.init)))
    }
}

@Suite("Expressions")
struct PatternTests {
    @Test("repetition: greedy, lazy, possessive, counted")
    func repetition() throws {
        #expect(try found("a+ab", "aaab") == ["aaab"])
        #expect(try found("a+?b", "aaab") == ["aaab"])
        #expect(try found("a++ab", "aaab").isEmpty)
        #expect(try found("(?:ab){2,3}", "ababababab") == ["ababab", "abab"])
        #expect(try found("a{2}", "aaaaa") == ["aa", "aa"])
        #expect(try found("a{,2}b", "aaab") == ["aab"])
        #expect(try found("a{b", "a{b") == ["a{b"])
    }

    @Test("looks, atoms and anchors")
    func looks() throws {
        #expect(try found("\\s+(?!\\S)|\\s+", "a   b") == ["  ", " "])
        #expect(try found("(?<=a)b", "abcb") == ["b"])
        #expect(try found("(?>a|ab)c", "abc ac") == ["ac"])
        #expect(try found("\\Aa|b\\z", "aab b") == ["a", "b"])
    }

    @Test("classes: nested, negated, intersected, by category")
    func classes() throws {
        #expect(try found("[\\p{L}&&[^a-z]]+", "abCDéF") == ["CDéF"])
        #expect(try found("[^\\s\\p{L}\\p{N}]+", "a-+ 1") == ["-+"])
        #expect(try found("[]a-]+", "]a-b") == ["]a-"])
        #expect(try found("[\\x{1F980}-\\x{1F9FF}]", "🦙a🦉") == ["🦙", "🦉"])
        #expect(try found("\\p{Nd}\\P{Nd}", "٣x1") == ["٣x"])
    }

    @Test("letters of either case, and what folds to them")
    func cases() throws {
        #expect(try found("(?i:'s|'ll)", "'S 'ſ 'lL 'x") == ["'S", "'ſ", "'lL"])
        #expect(try found("a(?i)b", "aB AB ab") == ["aB", "ab"])
    }

    @Test(
        "what is not supported is refused",
        arguments: ["(", "a)", "[a", "*", "\\1", "\\p{Greek}", "(?P<x>a)", "a{5,2}", "(a*)*", "\\"]
    )
    func refused(_ expression: String) {
        #expect(throws: Pattern.Failure.self) { try Pattern(expression) }
    }

    @Test("a search that backtracks for ever ends")
    func steps() throws {
        let pattern = try Pattern("(?:a|a)+b")
        let text = [UInt32](repeating: 0x61, count: 64)
        var budget = SearchBudget()
        #expect(throws: Pattern.Failure.steps) { try pattern.matches(in: text[...], &budget) }
    }
}

@Suite("Normal forms")
struct NormalFormTests {
    @Test(
        "composed",
        arguments: [
            ("e\u{301}", "\u{E9}"), ("\u{1100}\u{1161}\u{11A8}", "\u{AC01}"),
            ("a\u{323}\u{302}", "\u{1EAD}"), ("a\u{302}\u{323}", "\u{1EAD}"),
            ("\u{212B}", "\u{C5}"), ("q\u{307}\u{323}", "q\u{323}\u{307}"),
            ("\u{344}", "\u{308}\u{301}"),
        ]
    )
    func composed(_ text: String, _ wanted: String) {
        let found = NormalForm.composed(text.unicodeScalars.map(\.value))
        #expect(found == wanted.unicodeScalars.map(\.value))
    }
}
