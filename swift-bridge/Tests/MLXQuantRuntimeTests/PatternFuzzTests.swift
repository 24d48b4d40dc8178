import TestSupport
import Testing

@testable import MLXQuantRuntime

/// A random expression: mostly one that is read, and often one that backtracks.
private func expression(_ random: inout RandomStream, depth: Int = 0) -> String {
    let atoms = [
        "a", "b", "ab", ".", "\\s", "\\S", "\\w", "\\d", "\\p{L}", "\\P{N}", "[^a-c]", "[a&&[ab]]",
        "[\\p{L}&&[^\\p{Lu}]]", "\\x{1F980}", "$", "^", "\\A", "\\z", "", "[]a]", "[a-", "\\", "é",
        " ",
        "{", "\\p{Zq}", "\\u00e9", "\u{10FFFF}",
    ]
    let counts = [
        "*", "+", "?", "*?", "+?", "++", "*+", "{2}", "{0,3}", "{2,}", "{1000}", "{1,3}+", "{5,2}",
    ]
    let groups = ["(?:", "(", "(?i:", "(?>", "(?=", "(?!", "(?<=", "(?<!", "(?-i:", "(?i)", "(?P<"]
    var text = ""
    for _ in 0...random.below(4) {
        if depth < 6, random.once(in: 3) {
            text += random.pick(groups) + expression(&random, depth: depth + 1)
            if !random.once(in: 20) { text += ")" }
        } else {
            text += random.pick(atoms)
        }
        while random.once(in: 2) { text += random.pick(counts) }
        if random.once(in: 4) { text += "|" }
    }
    return text
}

@Suite("Expressions of strangers")
struct PatternFuzzTests {
    @Test("random ones are refused, or searched for within limits")
    func random() throws {
        let searched = try onSmallStack {
            var random = fuzzNumbers(21)
            let letters = Array("aaaaabbc 1\n\u{E9}\u{1F981}A".unicodeScalars.map(\.value))
            var searched = 0
            for _ in 0..<(4_000 * fuzzFactor) {
                let source = expression(&random)
                let text = (0..<random.below(80)).map { _ in random.pick(letters) }
                do throws(Pattern.Failure) {
                    let pattern = try Pattern(source)
                    var budget = SearchBudget()
                    let found = try pattern.matches(in: text[...], &budget)
                    var at = 0
                    for range in found {
                        #expect(range.lowerBound >= at && range.upperBound <= text.count)
                        at = range.upperBound
                    }
                    searched += 1
                } catch {
                    #expect(!error.reason.isEmpty)
                }
            }
            return searched
        }
        #expect(searched > 400)
    }

    @Test(
        "what would take for ever, or all memory, or all of the stack, is refused",
        arguments: [
            String(repeating: "(?:", count: 9) + String(repeating: "){1000}", count: 9),
            String(repeating: "(?:", count: 9) + "a" + String(repeating: "){1000}", count: 9) + "+",
            "(?<=" + String(repeating: "(?:", count: 9) + "a"
                + String(repeating: "){1000}", count: 9)
                + ")",
            "a" + String(repeating: "?", count: 8_000),
            "a" + String(repeating: "{1}", count: 2_500),
            String(repeating: "(", count: 8_000), String(repeating: "[", count: 8_000),
            String(repeating: "(?i)", count: 2_000), String(repeating: "a", count: 1 << 20),
        ]
    )
    func refused(_ source: String) throws {
        try onSmallStack { () -> Void in
            #expect(throws: Pattern.Failure.self) { try Pattern(source) }
        }
    }

    @Test(
        "searches that backtrack end, one by one and together",
        arguments: [
            "(?:a|a)+b", "(?:a+)+b", "(?:a?){60}a{60}b", "(?:(?:a|aa)+(?:a|aaa)+)+b",
            "(?=(?:a|a)+b)", "(?:(?>a|aa)+|a)*?b(?<=ab)", "(?:a?a?a?a?a?a?a?a?a?a?a?a?x|a)+b",
        ]
    )
    func backtracking(_ source: String) throws {
        let pattern = try Pattern(source)
        let text = [UInt32](repeating: 0x61, count: 2_000)
        var budget = SearchBudget()
        var searches = 0
        do throws(Pattern.Failure) {
            while searches < 1_000 {
                _ = try pattern.matches(in: text[...], &budget)
                searches += 1
            }
            // One that takes no more than its share may go on for ever.
            #expect(source.hasPrefix("(?:a?){60}") == false)
        } catch {
            #expect(error == .steps)
        }
    }

    @Test("steps that make a text longer and longer end")
    func growth() throws {
        let text = [UInt32](repeating: 0xE9, count: 1_000)
        var budget = SearchBudget()
        var pieces = Pieces(text[...], isFirst: true)
        #expect(throws: Pattern.Failure.size) {
            for _ in 0..<64 { try pieces.apply(.bytes, &budget) }
        }
        let doubling = NormalizerStep.replace(.literal([0xE9]), with: [0xE9, 0xE9])
        #expect(throws: Pattern.Failure.size) {
            let long = NormalizerStep.replace(
                .literal([0xE9]),
                with: Array(repeating: 0xE9, count: 70)
            )
            _ = try long.apply(to: try doubling.apply(to: text, &budget), &budget)
        }
    }
}
