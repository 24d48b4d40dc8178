import MLXQuantFormats

/// A command of the executable: what it is called, and what it does with the words behind its name.
struct Command: Sendable {
    /// A switch, and what it is for.
    struct Switch: Sendable {
        let name: String
        let meaning: String

        static let trustRemoteCode = Switch(
            name: "--trust-remote-code",
            meaning: "accept a folder that wants its own Python code run; none is"
        )
    }

    let name: String
    /// In the list of commands: behind "MODEL".
    let summary: String
    /// In its own help, whole sentences.
    let description: String
    let switches: [Switch]
    /// Does it; returns the exit status.
    let run: @Sendable (Arguments) throws(FormatError) -> Int32

    /// Every command but `generate`, which waits; adding one is a line here.
    static let all = [inspect, verify]

    /// `usage: …`, one line.
    var usage: String {
        let words = ["mlxquant-swift", name, "MODEL"] + switches.map { "[\($0.name)]" }
        return "usage: \(words.joined(separator: " "))"
    }

    /// What `--help` prints.
    func printHelp() {
        print("\(usage)\n\n\(description)\n")
        printColumns(switches.map { ["  \($0.name)", $0.meaning] }, right: [])
    }
}

/// The words behind a command's name: one path, and switches; behind `--`, a path whatever it begins with.
struct Arguments: Sendable {
    let path: String
    private let switches: Set<String>

    /// Reads the words.
    init(_ words: [String], command: Command) throws(FormatError) {
        func wrong(_ reason: String) -> FormatError {
            let reason = "\(reason); \(command.usage)"
            return FormatError(.request, field: command.name, reason: reason)
        }
        let parts = words.split(separator: "--", maxSplits: 1, omittingEmptySubsequences: false)
        let given = parts[0].filter { $0.hasPrefix("-") }
        if let unknown = given.first(where: { word in
            !command.switches.contains { $0.name == word }
        }) {
            throw wrong("there is no option \(unknown)")
        }
        let paths = parts[0].filter { !$0.hasPrefix("-") } + parts.dropFirst().joined()
        guard paths.count == 1 else {
            throw wrong(paths.isEmpty ? "no model is given" : "more than one model is given")
        }
        path = paths[0]
        switches = Set(given)
    }

    /// Whether a switch is given.
    func has(_ option: Command.Switch) -> Bool {
        switches.contains(option.name)
    }
}
