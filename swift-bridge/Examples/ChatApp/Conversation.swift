import Foundation
import MLXQuantFormats
import MLXQuantRuntime
import Observation

/// A conversation with the model in the app's bundle: what a view shows of it.
@MainActor
@Observable
final class Conversation {
    /// One side's words.
    struct Turn: Identifiable {
        let id = UUID()
        let role: String
        var text: String
    }

    /// Where the model is with its work.
    enum State: Equatable {
        case loading, idle, answering
        case failed(String)
    }

    private(set) var turns: [Turn] = []
    private(set) var state = State.loading

    private var session: GenerationSession?
    private var work: Task<Void, Never>?

    /// Opens the model; its weights are read as they are used.
    ///
    /// - Parameter folder: what `mlxquant export --to swift` wrote.
    func load(_ folder: URL) async {
        do {
            // Off the main actor: tokenizers of large models take a moment to read.
            let model = try await Task.detached { try LanguageModel(folder.path) }.value
            session = GenerationSession(model)
            state = .idle
        } catch {
            state = .failed("\(error)")
        }
    }

    /// Adds the user's words, and the answer to them as it comes.
    func send(_ text: String) {
        guard let session, state == .idle, !text.isEmpty else { return }
        turns.append(Turn(role: "user", text: text))
        let messages = turns.map { ChatMessage(role: $0.role, content: $0.text) }
        turns.append(Turn(role: "assistant", text: ""))
        let answer = turns.count - 1
        state = .answering
        work = Task {
            do {
                let options = GenerationOptions(maxTokens: 512)
                for try await token in session.reply(to: messages, options: options) {
                    turns[answer].text += token.text
                }
                state = .idle
            } catch {
                state = .failed("\(error)")
            }
        }
    }

    /// Ends the answer where it is.
    func stop() {
        work?.cancel()
    }
}
