import MLXQuantFormats

extension Command {
    /// `verify`: whether a model's files are what mlxquant wrote.
    static let verify = Command(
        name: "verify",
        arguments: "MODEL [--trust-remote-code]",
        summary: "Read every file and compare its SHA-256 with the manifest; 1 where one differs."
    ) { (arguments) throws(FormatError) in
        let model = try Model(
            arguments.path,
            trustRemoteCode: arguments.has("--trust-remote-code")
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
