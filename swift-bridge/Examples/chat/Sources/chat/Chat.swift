import Foundation
import MLXQuantFormats
import MLXQuantRuntime

/// A conversation in a terminal: `chat MODEL [TOKENS]`, then a line a turn; an empty line ends it.
@main
struct Chat {
    static func main() async {
        let arguments = CommandLine.arguments.dropFirst()
        let most = arguments.count < 2 ? 256 : arguments.last.flatMap { Int($0) } ?? 0
        guard let path = arguments.first, arguments.count <= 2, most > 0 else {
            complain(
                """
                usage: chat MODEL [TOKENS]

                MODEL is a folder that mlxquant wrote, or a GGUF file; an answer has at most TOKENS.
                """
            )
            exit(2)
        }
        do {
            try await talk(with: path, most)
        } catch {
            complain("error: \(error)")
            exit(error is FormatError ? 2 : 1)
        }
    }

    private static func talk(with path: String, _ most: Int) async throws {
        let model = try LanguageModel(path)
        // What the conversation has in common with what was seen is not computed again.
        let session = GenerationSession(model)
        var turns: [ChatMessage] = []
        while let line = prompt(), !line.isEmpty {
            turns.append(ChatMessage(role: "user", content: line))
            var answer = ""
            let options = GenerationOptions(maxTokens: most)
            for try await token in session.reply(to: turns, options: options) {
                answer += token.text
                emit(token.text)
            }
            emit("\n")
            turns.append(ChatMessage(role: "assistant", content: answer))
        }
    }

    /// The next line of the user's; nil at the end of the input.
    private static func prompt() -> String? {
        FileHandle.standardError.write(Data("> ".utf8))
        return readLine()
    }

    /// Writes to standard output at once: tokens show as they come.
    private static func emit(_ text: String) {
        FileHandle.standardOutput.write(Data(text.utf8))
    }

    private static func complain(_ text: String) {
        FileHandle.standardError.write(Data("\(text)\n".utf8))
    }
}
