import MLXQuantFormats

/// The exit status: 0 done; 1 the work failed, or found what should not be; 2 the input or the command
/// line was wrong.
func run(_ words: [String]) -> Int32 {
    guard let name = words.first, !["-h", "--help", "help"].contains(name) else {
        print("usage: mlxquant-swift COMMAND MODEL\n")
        printTable(
            ["command", ""],
            Command.all.map { ["\($0.name) \($0.arguments)", $0.summary] }
                + [["generate MODEL [options]", GenerateCommand.summary]],
            right: []
        )
        return words.isEmpty ? 2 : 0
    }
    guard let command = Command.all.first(where: { $0.name == name }) else {
        let names = (Command.all.map(\.name) + ["generate"]).joined(separator: ", ")
        note("error: there is no command \(name); choose one of \(names)")
        return 2
    }
    let rest = Array(words.dropFirst())
    if rest.contains("--help") || rest.contains("-h") {
        print("usage: mlxquant-swift \(command.name) \(command.arguments)\n\n\(command.summary)")
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
