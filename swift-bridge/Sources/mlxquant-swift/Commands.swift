import MLXQuantFormats

/// A command of the executable: what it is called, and what it does with the words behind its name.
struct Command: Sendable {
    let name: String
    /// Behind the name.
    let arguments: String
    let summary: String
    /// Does it; returns the exit status.
    let run: @Sendable (Arguments) throws(FormatError) -> Int32

    /// Every command; adding one is a line here.
    static let all = [inspect, verify]
}

/// The words behind a command's name: one path, and switches.
struct Arguments: Sendable {
    let path: String
    private let switches: Set<String>

    /// Reads the words.
    init(_ words: [String], command: Command) throws(FormatError) {
        func wrong(_ reason: String) -> FormatError {
            let usage = "usage: mlxquant-swift \(command.name) \(command.arguments)"
            return FormatError(.request, field: command.name, reason: "\(reason); \(usage)")
        }
        let given = words.filter { $0.hasPrefix("-") }
        let known = command.arguments.split(separator: " ").map { $0.filter { !"[]".contains($0) } }
        if let unknown = given.first(where: { !known.contains($0) }) {
            throw wrong("there is no option \(unknown)")
        }
        let paths = words.filter { !$0.hasPrefix("-") }
        guard paths.count == 1 else {
            throw wrong(paths.isEmpty ? "no model is given" : "more than one model is given")
        }
        path = paths[0]
        switches = Set(given)
    }

    /// Whether a switch is given.
    func has(_ name: String) -> Bool {
        switches.contains(name)
    }
}
