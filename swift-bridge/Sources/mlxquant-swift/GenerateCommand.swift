import MLXQuantFormats
import MLXQuantRuntime

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `mlxquant-swift generate`: one prompt, one answer.
enum GenerateCommand {
    static let summary = "text from a prompt"

    static let usage = """
        usage: mlxquant-swift generate MODEL [options]

        Generates text from a prompt. MODEL is a folder or a GGUF file. The text goes to
        standard output as it comes, everything else to standard error. Ctrl-C stops, shows what
        there is, and leaves with status 130.

          -p, --prompt TEXT          what to say to the model; - reads it from standard input, and
                                     so does leaving it out when that is a pipe or a file
          --system-prompt TEXT       what the model is told beforehand
          --raw                      go on from the prompt as it is, without the chat template
                                     (also --no-chat-template, --ignore-chat-template)
          -m, -n, --max-tokens N     stop after so many tokens; -1 for no limit (256)
          --temp T                   sampling temperature; 0 is greedy. This and the next four are,
                                     unless given, what the model recommends; without it, greedy
          --top-p P                  sample from the likeliest of this probability
          --top-k K                  sample from the so many likeliest; 0 is off
          --min-p P                  drop tokens less likely than this times the best
          --repetition-penalty R     for the last 20 tokens; 1 is off
          --seed N                   of the random numbers; the same seed, the same text
          -t, --threads N            how many threads compute; 0 for one a processor (0)
          --json                     print one JSON object at the end
          --quiet                    no figures and no notes
          --trust-remote-code        accept a folder that wants its own Python code run; none is
        """

    /// What the command line asks for.
    private struct Request {
        var model: String?
        var prompt: String?
        var system: String?
        var isRaw = false
        var options = GenerationOptions()
        var threads = 0
        var isJSON = false
        var isQuiet = false
        var trustsCode = false
    }

    /// Runs the command.
    ///
    /// - Parameter arguments: what follows `generate`.
    /// - Returns: the exit status: 0 done, 1 the work failed, 2 the input or the command line was
    ///   wrong, 130 interrupted.
    static func run(_ arguments: [String]) async -> Int32 {
        if arguments.contains("--help") || arguments.contains("-h") {
            print(usage)
            return 0
        }
        do {
            return try await generate(try parse(arguments))
        } catch let error as UsageError {
            complain(error.reason)
            return 2
        } catch let error as GenerationError {
            complain("\(error)")
            return 2
        } catch let error as FormatError {
            complain("\(error)")
            return 2
        } catch {
            complain("\(error)")
            return 1
        }
    }

    private struct UsageError: Error { let reason: String }

    private static func complain(_ text: String) { note("error: \(text)") }

    private static func parse(_ arguments: [String]) throws -> Request {
        var request = Request()
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            // --name=value is --name value
            var name = argument
            var inline: String?
            if argument.hasPrefix("--"), let mark = argument.firstIndex(of: "=") {
                name = String(argument[..<mark])
                inline = String(argument[argument.index(after: mark)...])
            }
            func text() throws -> String {
                guard let value = inline ?? rest.popFirst() else {
                    throw UsageError(reason: "\(name) needs a value")
                }
                return value
            }
            func number<Number: LosslessStringConvertible>(_ type: Number.Type) throws -> Number {
                let given = try text()
                guard let value = Number(given) else {
                    throw UsageError(reason: "\(name) \(given): a number expected")
                }
                return value
            }
            switch name {
            case "-p", "--prompt": request.prompt = try text()
            case "--model": request.model = try text()
            case "--system-prompt": request.system = try text()
            case "--raw", "--no-chat-template", "--ignore-chat-template": request.isRaw = true
            case "-m", "-n", "--max-tokens":
                let count = try number(Int.self)
                guard count == -1 || count > 0 else {
                    throw UsageError(reason: "\(name) \(count): at least 1, or -1 for no limit")
                }
                request.options.maxTokens = count == -1 ? nil : count
            case "--temp": request.options.temperature = try number(Float.self)
            case "--top-p": request.options.topP = try number(Float.self)
            case "--top-k": request.options.topK = try number(Int.self)
            case "--min-p": request.options.minP = try number(Float.self)
            case "--repetition-penalty": request.options.repetitionPenalty = try number(Float.self)
            case "--seed": request.options.seed = try number(UInt64.self)
            case "-t", "--threads":
                request.threads = try number(Int.self)
                guard request.threads >= 0 else {
                    let reason = "at least 1, or 0 for one a processor"
                    throw UsageError(reason: "\(name) \(request.threads): \(reason)")
                }
            case "--json": request.isJSON = true
            case "--quiet": request.isQuiet = true
            case "--trust-remote-code": request.trustsCode = true
            default:
                guard !argument.hasPrefix("-"), request.model == nil else {
                    throw UsageError(reason: "unknown argument \(argument); see --help")
                }
                request.model = argument
            }
        }
        return request
    }

    private static func readPrompt(_ given: String?) throws -> String {
        if let given, given != "-" { return given }
        if given == nil, isatty(STDIN_FILENO) != 0 {
            throw UsageError(reason: "no prompt: give --prompt TEXT, or pipe it in")
        }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = read(STDIN_FILENO, &buffer, buffer.count), count > 0 {
            bytes += buffer[..<count]
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw UsageError(reason: "standard input is not UTF-8 text")
        }
        return text
    }

    private static func generate(_ request: Request) async throws -> Int32 {
        guard let path = request.model else {
            throw UsageError(reason: "which model? give a folder or a GGUF file; see --help")
        }
        if request.isRaw, request.system != nil {
            throw UsageError(reason: "--system-prompt is part of the chat template; --raw has none")
        }
        let prompt = try readPrompt(request.prompt)
        let files = try Model(path, trustRemoteCode: request.trustsCode)
        let model = try LanguageModel(files, threads: request.threads)
        let tokens: [Int]
        if request.isRaw || !model.hasChatTemplate {
            if !request.isRaw {
                if request.system != nil {
                    throw UsageError(
                        reason: "--system-prompt: this model has no chat template to put it in"
                    )
                }
                remark(
                    "this model has no chat template: it goes on from the prompt as it is",
                    request
                )
            }
            tokens = try model.encode(prompt)
        } else {
            let before = request.system.map { [ChatMessage(role: "system", content: $0)] } ?? []
            tokens = try model.encode(before + [ChatMessage(role: "user", content: prompt)])
        }
        if tokens.count >= model.contextLength {
            remark(
                "the prompt takes \(tokens.count) tokens and the model was made for"
                    + " \(model.contextLength): expect nonsense",
                request
            )
        }
        return try await answer(request, model, tokens)
    }

    private static func remark(_ text: String, _ request: Request) {
        if !request.isQuiet { note("note: \(text)") }
    }

    /// What a generation has come to.
    private struct Answer: Sendable {
        var ids: [Int] = []
        var text = ""
        var finish: GeneratedToken.Reason?
        var firstAt: ContinuousClock.Instant?
    }

    private static func answer(
        _ request: Request,
        _ model: LanguageModel,
        _ tokens: [Int]
    ) async throws -> Int32 {
        let clock = ContinuousClock()
        let start = clock.now
        // the first token must find Ctrl-C taken: the work waits behind a gate until it is
        let (gate, entrance) = AsyncStream<Never>.makeStream()
        let work = Task {
            for await _ in gate {}
            var answer = Answer()
            let session = GenerationSession(model)
            for try await token in session.generate(tokens: tokens, options: request.options) {
                answer.firstAt = answer.firstAt ?? clock.now
                answer.ids.append(token.id)
                answer.text += token.text
                answer.finish = token.finish
                if !request.isJSON { try emit(token.text) }
            }
            return answer
        }
        let interrupts = Interrupts { work.cancel() }
        entrance.finish()
        let answer = try await work.value
        interrupts.end()
        let end = clock.now
        let prefill = ((answer.firstAt ?? end) - start) / .seconds(1)
        let decode = (end - (answer.firstAt ?? end)) / .seconds(1)
        let speed = decode > 0 ? Double(answer.ids.count - 1) / decode : 0
        let finish = answer.finish?.rawValue ?? "interrupted"
        if request.isJSON {
            print(
                """
                {"text": \(JSON.string(answer.text)), "tokens": \(answer.ids), \
                "prompt_tokens": \(tokens.count), "finish_reason": "\(finish)", \
                "first_token_seconds": \(prefill), "decode_seconds": \(decode), \
                "tokens_per_second": \(speed)}
                """
            )
        } else {
            try emit("\n")
        }
        if !request.isQuiet {
            note(
                "\(tokens.count) prompt tokens in \(decimal(prefill, 3)) s,"
                    + " \(answer.ids.count) tokens at \(decimal(speed, 1)) a second"
            )
        }
        return answer.finish == nil ? 130 : 0
    }
}
