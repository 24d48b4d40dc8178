import Foundation
import MLXQuantFormats
import TestSupport
import Testing

@testable import MLXQuantRuntime

/// The model that comes with mlxquant.
private let bundled = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("mlxquant/assets/books-7m").path

private let greedy = GenerationOptions(maxTokens: 24, temperature: 0)

private func text(_ stream: TokenStream) async throws -> String {
    var text = ""
    for try await token in stream { text += token.text }
    return text
}

@Suite("Generation")
struct GenerationTests {
    @Test("a session streams, and what it has seen changes nothing")
    func streams() async throws {
        let model = try LanguageModel(bundled)
        let session = GenerationSession(model)
        let prompt = "The old house stood on the hill."
        let first = try await text(session.generate(prompt, options: greedy))
        #expect(first.hasPrefix(" The old man was sitting in the middle of the room"))
        let again = try await text(session.generate(prompt, options: greedy))
        #expect(again == first)
        let other = try await text(session.generate("Once upon a time", options: greedy))
        let fresh = try await text(
            GenerationSession(model).generate("Once upon a time", options: greedy)
        )
        #expect(other == fresh)
        // In parts of three tokens.
        var parts = greedy
        parts.prefillStep = 3
        await session.reset()
        let inParts = try await text(session.generate(prompt, options: parts))
        #expect(inParts == first)
    }

    @Test("one thread says what several say")
    func threads() async throws {
        let one = GenerationSession(try LanguageModel(bundled, threads: 1))
        let four = GenerationSession(try LanguageModel(bundled, threads: 4))
        let prompt = "It was a dark night and"
        let said = try await text(one.generate(prompt, options: greedy))
        let others = try await text(four.generate(prompt, options: greedy))
        #expect(said == others)
    }

    @Test("sessions share a model, at the same time")
    func concurrent() async throws {
        let model = try LanguageModel(bundled)
        let prompts = ["London is", "Once upon a time", "She said", "The ship"]
        let together = try await withThrowingTaskGroup(of: (Int, String).self) { group in
            for (index, prompt) in prompts.enumerated() {
                group.addTask {
                    (
                        index,
                        try await text(GenerationSession(model).generate(prompt, options: greedy))
                    )
                }
            }
            var found = [String](repeating: "", count: prompts.count)
            for try await (index, text) in group { found[index] = text }
            return found
        }
        for (prompt, said) in zip(prompts, together) {
            let alone = try await text(GenerationSession(model).generate(prompt, options: greedy))
            #expect(said == alone)
        }
    }

    @Test("a cancelled task ends, and the session goes on")
    func cancelled() async throws {
        let session = GenerationSession(try LanguageModel(bundled))
        let endless = GenerationOptions(maxTokens: 100_000, temperature: 0)
        let task = Task {
            var count = 0
            for try await _ in session.generate("Once", options: endless) {
                count += 1
                if count == 3 { withUnsafeCurrentTask { $0?.cancel() } }
            }
            return count
        }
        let count = try await task.value
        #expect(count == 3)
        let after = try await text(session.generate("Once", options: greedy))
        #expect(!after.isEmpty)
    }

    @Test("a generation that begins ends the one before it")
    func superseded() async throws {
        let session = GenerationSession(try LanguageModel(bundled))
        var first = session.generate("Once", options: greedy).makeAsyncIterator()
        #expect(try await first.next() != nil)
        var second = session.generate("London is", options: greedy).makeAsyncIterator()
        #expect(try await second.next() != nil)
        #expect(try await first.next() == nil)
    }

    @Test(
        "options out of their ranges are refused",
        arguments: [
            GenerationOptions(maxTokens: 0), GenerationOptions(temperature: -1),
            GenerationOptions(topP: 1.5), GenerationOptions(topK: -1), GenerationOptions(minP: 2),
            GenerationOptions(repetitionPenalty: 0), GenerationOptions(prefillStep: 0),
        ]
    )
    func refused(_ options: GenerationOptions) async throws {
        let session = GenerationSession(try LanguageModel(bundled))
        await #expect(throws: GenerationError.self) {
            try await text(session.generate("Once", options: options))
        }
        await #expect(throws: GenerationError.self) {
            try await text(session.generate(tokens: [], options: greedy))
        }
        await #expect(throws: GenerationError.self) {
            try await text(session.generate(tokens: [1 << 40], options: greedy))
        }
    }
}

@Suite("Chat templates of a model")
struct ModelTemplateTests {
    /// The text that a copy of the bundled model with these templates makes of a conversation.
    private func text(_ templates: [String: String], _ tools: JSON?) throws -> String {
        try withFolder { folder in
            let model = folder.appendingPathComponent("model")
            try FileManager.default.copyItem(at: URL(fileURLWithPath: bundled), to: model)
            try FileManager.default.removeItem(
                at: model.appendingPathComponent("chat_template.jinja")
            )
            let inside = model.appendingPathComponent("additional_chat_templates")
            try FileManager.default.createDirectory(at: inside, withIntermediateDirectories: true)
            for (name, text) in templates {
                try write(text.utf8, inside.appendingPathComponent("\(name).jinja"))
            }
            let opened = try LanguageModel(model.path)
            #expect(opened.hasChatTemplate)
            let turns = [ChatMessage(role: "user", content: "x")]
            let ids = try opened.encode(turns, variables: tools.map { ["tools": $0] } ?? [:])
            return opened.tokenizer.decode(ids)
        }
    }

    @Test("tool_use is for conversations with tools, default for all others")
    func named() throws {
        let two = ["default": "plain", "tool_use": "with tools"]
        #expect(try text(two, nil) == "plain")
        #expect(try text(two, .null) == "plain")
        #expect(try text(two, .array([])) == "with tools")
        #expect(try text(["default": "plain", "rag": "other"], .array([])) == "plain")
        #expect(throws: GenerationError.self) { try text(["rag": "other"], nil) }
        // without files it is tokenizer_config.json's
        #expect(try text([:], nil).hasPrefix("<|begin_of_text|>"))
    }
}

@Suite("Sampling")
struct SamplingTests {
    @Test("the numbers are those of the generator's authors")
    func numbers() {
        // SplitMix64 of 0 seeds the state with its first four outputs.
        var numbers = RandomNumbers(seed: 0)
        #expect(numbers.next() == 0x99EC_5F36_CB75_F2B4)
        #expect(numbers.next() == 0xBF6E_1F78_4956_452A)
    }

    @Test("tokens come as often as their probabilities say")
    func frequencies() {
        let scores: [Float] = [1, 2, 3, -10]
        var sampler = Sampler(GenerationOptions(temperature: 1, seed: 7))
        var counts = [0, 0, 0, 0]
        for _ in 0..<20_000 {
            var copy = scores
            counts[sampler.next(&copy, after: [])] += 1
        }
        for (count, wanted) in zip(counts, [0.0900, 0.2447, 0.6652, 0.0]) {
            #expect(abs(Double(count) / 20_000 - wanted) < 0.012)
        }
    }

    @Test("top-p, top-k and min-p narrow what is drawn from")
    func narrowed() {
        func drawn(_ options: GenerationOptions) -> Set<Int> {
            var sampler = Sampler(options)
            return Set(
                (0..<400).map { _ in
                    var scores: [Float] = [0, 1, 2, 3]
                    return sampler.next(&scores, after: [])
                }
            )
        }
        #expect(drawn(GenerationOptions(temperature: 5, seed: 1)) == [0, 1, 2, 3])
        // Their probabilities are 0.03, 0.09, 0.24 and 0.64.
        #expect(drawn(GenerationOptions(temperature: 5, topP: 0.6, seed: 1)) == [3])
        #expect(drawn(GenerationOptions(temperature: 5, topP: 0.7, seed: 1)) == [2, 3])
        #expect(drawn(GenerationOptions(temperature: 5, topK: 3, seed: 1)) == [1, 2, 3])
        #expect(drawn(GenerationOptions(temperature: 5, minP: 0.2, seed: 1)) == [2, 3])
    }

    @Test("repetition costs, whatever the sign of a score")
    func repetition() {
        var sampler = Sampler(GenerationOptions(temperature: 0, repetitionPenalty: 2))
        var scores: [Float] = [3, 2, -1]
        #expect(sampler.next(&scores, after: [0]) == 1)
        scores = [-1.5, -1, -4]
        #expect(sampler.next(&scores, after: [1]) == 0)
        // Twenty tokens back, and no more.
        scores = [3, 2, 1]
        #expect(sampler.next(&scores, after: [0] + Array(repeating: 2, count: 20)) == 0)
    }
}
