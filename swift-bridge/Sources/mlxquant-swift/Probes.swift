import MLXQuantFormats
import MLXQuantRuntime

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Commands that tests drive the runtime by. They read a JSON file, and write JSON lines.
enum Probes {
    /// The probe of a name; nil where there is none.
    static func named(_ name: String) -> (([String]) throws -> Void)? {
        switch name {
        case "probe-tokenize": tokenize
        case "probe-templates": templates
        case "probe-render": render
        case "probe-logits": logits
        case "probe-digest": digest
        default: nil
        }
    }

    /// Runs a probe; the exit status.
    static func run(_ probe: ([String]) throws -> Void, _ arguments: [String]) -> Int32 {
        do {
            try probe(arguments)
            return 0
        } catch {
            note("error: \(error)")
            return 2
        }
    }

    /// `MODEL FILE`: the ids of each of `texts`, the text of these ids, and that in pieces.
    private static func tokenize(_ arguments: [String]) throws {
        let request = try JSON.readObject(arguments[1], limit: 64 << 20)
        let path = arguments[0]
        let tokenizer =
            try path.hasSuffix(".gguf") ? Tokenizer(gguf: GGUFModel(path)) : Tokenizer(folder: path)
        for text in request["texts"]?.array ?? [] {
            let ids = try tokenizer.encode(
                text.string ?? "",
                addSpecialTokens: request["special"]?.bool ?? false,
                parseSpecialTokens: request["parse"]?.bool ?? true
            )
            var stream = tokenizer.detokenizer()
            let pieces = ids.map { JSON.string(stream.append($0)) } + [.string(stream.finish())]
            let whole = JSON.string(tokenizer.decode(ids))
            print("{\"ids\": \(ids), \"text\": \(whole), \"pieces\": \(JSON.array(pieces))}")
        }
    }

    /// `MODEL FILE`: the model's chat templates, a name and a text a line. The file is not looked at.
    private static func templates(_ arguments: [String]) throws {
        for (name, text) in try Tokenizer(folder: arguments[0]).chatTemplates {
            print("{\"name\": \(JSON.string(name)), \"text\": \(JSON.string(text))}")
        }
    }

    /// `FILE`: the text of each of `cases`, or why there is none.
    private static func render(_ arguments: [String]) throws {
        let request = try JSON.readObject(arguments[0], limit: 64 << 20)
        for item in request["cases"]?.array ?? [] {
            do throws(TemplateError) {
                let template = try ChatTemplate(item["template"]?.string ?? "")
                var variables: [String: JSON] = [:]
                for member in item["variables"]?.object?.members ?? [] {
                    variables[member.name] = member.value
                }
                let text = try template.render(
                    messages: item["messages"] ?? .array([]),
                    addGenerationPrompt: item["prompt"]?.bool ?? true,
                    variables: variables
                )
                print("{\"text\": \(JSON.string(text))}")
            } catch {
                let reason = JSON.string(error.description)
                print("{\"error\": \(JSON.string("\(error.kind)")), \"reason\": \(reason)}")
            }
        }
    }

    /// `MODEL FILE OUT`: writes the float32 scores after each of `tokens` to OUT.
    private static func logits(_ arguments: [String]) throws {
        let request = try JSON.readObject(arguments[1])
        let model = try LanguageModel(arguments[0])
        let tokens = (request["tokens"]?.array ?? []).compactMap(\.int)
        let scores = try model.scores(
            afterEachOf: tokens,
            step: request["step"]?.int ?? tokens.count
        )
        guard let file = fopen(arguments[2], "wb") else { throw ProbeError() }
        defer { fclose(file) }
        scores.withUnsafeBytes { _ = fwrite($0.baseAddress, 1, $0.count, file) }
    }

    /// `MODEL`: a line a weight, the SHA-256 of its floats and its name; no JSON.
    private static func digest(_ arguments: [String]) throws {
        for weight in try Model(arguments[0]).weights where weight.format.isDecodable {
            var digest = SHA256Digest()
            for row in 0..<weight.rows {
                try weight.floats(rows: row..<(row + 1)).withUnsafeBytes { digest.update($0) }
            }
            print(digest.hexadecimal(), weight.name)
        }
    }

    private struct ProbeError: Error {}
}
