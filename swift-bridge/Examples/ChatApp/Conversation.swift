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
        /// There is no model, for this reason.
        case failed(String)
    }

    private(set) var turns: [Turn] = []
    private(set) var state = State.loading
    /// Why the last answer is not whole; nil where it is, or was stopped.
    private(set) var problem: String?

    private let maxTokens: Int
    private var session: GenerationSession?
    private var work: Task<Void, Never>?

    /// A conversation without a model yet.
    ///
    /// - Parameter maxTokens: of an answer.
    init(maxTokens: Int = 512) {
        self.maxTokens = maxTokens
    }

    /// Opens the model, once; its weights stay in the file and are read as they are used.
    ///
    /// - Parameter folder: what `mlxquant export --to swift` wrote.
    func load(_ folder: URL) async {
        guard session == nil else { return }
        state = .loading
        do {
            // Off the main actor: tokenizers of large models take a moment to read.
            let model = try await Task.detached { try LanguageModel(folder.path) }.value
            session = GenerationSession(model)
            state = .idle
        } catch {
            fail("\(error)")
        }
    }

    /// Says why there is no model.
    func fail(_ reason: String) {
        state = .failed(reason)
    }

    /// Adds the user's words, and the answer to them as it comes.
    ///
    /// - Returns: whether they were taken: not while an answer comes, nor where there are none.
    func send(_ text: String) -> Bool {
        let text = text.trimmingCharacters(in: .whitespacesAndNewlines)
        guard let session, state == .idle, !text.isEmpty else { return false }
        turns.append(Turn(role: "user", text: text))
        let messages = turns.map { ChatMessage(role: $0.role, content: $0.text) }
        turns.append(Turn(role: "assistant", text: ""))
        let answer = turns.count - 1
        (state, problem) = (.answering, nil)
        let options = GenerationOptions(maxTokens: maxTokens)
        work = Task {
            do {
                // A cancelled task ends the loop after the token at hand.
                for try await token in session.reply(to: messages, options: options) {
                    turns[answer].text += token.text
                }
            } catch {
                problem = "\(error)"
            }
            if turns[answer].text.isEmpty {
                // Chat templates want an answer to every question.
                turns.removeLast(2)
            }
            state = .idle
        }
        return true
    }

    /// Ends the answer where it is.
    func stop() {
        work?.cancel()
    }
}
