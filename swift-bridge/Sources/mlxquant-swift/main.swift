import MLXQuantFormats

private let help = """
    usage: mlxquant-swift COMMAND MODEL [options]

    For models that mlxquant wrote: folders, GGUF files, safetensors files.

      inspect MODEL    \(Command.inspect.summary)
      verify MODEL     \(Command.verify.summary)
      generate MODEL   \(GenerateCommand.summary)

    mlxquant-swift COMMAND --help lists a command's options. The exit status is 0 where all went well,
    1 where the work failed or verify found a difference, 2 where the model or the command line was
    wrong, and 130 after Ctrl-C.
    """

/// The exit status: 0 done; 1 the work failed, or found what should not be; 2 the input or the command
/// line was wrong.
private func run(_ words: [String]) -> Int32 {
    guard let name = words.first else {
        note("error: no command is given; mlxquant-swift --help lists them")
        return 2
    }
    if ["-h", "--help", "help"].contains(name) {
        print(help)
        return 0
    }
    guard let command = Command.all.first(where: { $0.name == name }) else {
        let names = (Command.all.map(\.name) + ["generate"]).joined(separator: ", ")
        note("error: there is no command \(name); choose one of \(names)")
        return 2
    }
    let rest = Array(words.dropFirst())
    if rest.contains("--help") || rest.contains("-h") {
        command.printHelp()
        return 0
    }
    do throws(FormatError) {
        return try command.run(try Arguments(rest, command: command))
    } catch {
        note("error: \(error)")
        return 2
    }
}

let words = Array(CommandLine.arguments.dropFirst())
if words.first == "generate" {
    finish(await GenerateCommand.run(Array(words.dropFirst())))
} else if let name = words.first, let probe = Probes.named(name) {
    finish(Probes.run(probe, Array(words.dropFirst())))
} else {
    finish(run(words))
}
