#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

func note(_ text: String) {
    let line = Array((text + "\n").utf8)
    _ = line.withUnsafeBytes { write(2, $0.baseAddress, $0.count) }
}

let arguments = Array(CommandLine.arguments.dropFirst())
let rest = Array(arguments.dropFirst())
switch arguments.first {
case "generate"?: exit(await GenerateCommand.run(rest))
case let name?:
    guard let probe = Probes.named(name) else { exit(2) }
    do { try probe(rest) } catch {
        note("error: \(error)")
        exit(2)
    }
case nil: exit(2)
}
