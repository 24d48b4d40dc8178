import MLXQuantFormats

extension Command {
    /// `verify`: whether a model's files are what mlxquant wrote.
    static let verify = Command(
        name: "verify",
        summary: "whether its files are what mlxquant wrote",
        description: """
            Reads every file of a folder and compares its size and SHA-256 with mlxquant.json. Prints
            what differs; the exit status is 1 where anything does.
            """,
        switches: [.trustRemoteCode]
    ) { (arguments) throws(FormatError) in
        let model = try Model(
            arguments.path,
            trustRemoteCode: arguments.has(.trustRemoteCode)
        )
        var (files, bytes) = (0, 0)
        let problems = try model.verify { _, size in
            files += 1
            bytes += size
        }
        for problem in problems {
            print(problem)
        }
        let count = problems.count
        let verdict = count == 0 ? "no problem" : "\(count) problem\(count == 1 ? "" : "s")"
        let read = "\(bytesText(bytes)) in \(files) file\(files == 1 ? "" : "s")"
        print("verified: \(read), \(verdict) found")
        return problems.isEmpty ? 0 : 1
    }
}
