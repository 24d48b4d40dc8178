// What benchmarks/swift.py measures, in a process of its own.
//
//     formats-benchmark decode FOLDER SECONDS   each line of FOLDER/list.txt is `place name type blocks`;
//                                               part p of it is FOLDER/<place>.<p>. Prints a line each:
//                                               name, type, weights a second to Float and to float16
//     formats-benchmark open MODEL              prints seconds to open it, and how many weights it has

import MLXQuantFormats

/// The best rate of a call over and over, for that many seconds, in calls a second.
func rate(_ seconds: Double, _ body: () throws -> Void) rethrows -> Double {
    let clock = ContinuousClock()
    let begin = clock.now
    var best = Duration.seconds(1_000)
    repeat {
        best = min(best, try clock.measure(body))
    } while begin.duration(to: clock.now) < .seconds(seconds)
    return 1 / (best / .seconds(1))
}

func decode(_ folder: String, _ seconds: Double) throws {
    let list = try MappedFile("\(folder)/list.txt").withUnsafeBytes {
        String(decoding: $0, as: UTF8.self)
    }
    for line in list.split(separator: "\n") {
        let words = line.split(separator: " ").map(String.init)
        guard words.count == 4, let type = ElementType(rawValue: words[2]),
            let format = WeightFormat(named: words[1], floats: type), let blocks = Int(words[3])
        else { throw FormatError(.request, field: "list.txt", reason: String(line)) }
        let files = try format.parts.indices.map { try MappedFile("\(folder)/\(words[0]).\($0)") }
        let wire = files.map { $0.withUnsafeBytes { $0 } }
        let count = blocks * format.blockSize
        let floats = UnsafeMutableBufferPointer<Float>.allocate(capacity: count)
        let halves = UnsafeMutableBufferPointer<UInt16>.allocate(capacity: count)
        defer {
            floats.deallocate()
            halves.deallocate()
        }
        let single = try rate(seconds) { try format.decode(wire, blocks: blocks, into: floats) }
        let half = try rate(seconds) {
            try format.decode(wire, blocks: blocks, intoHalfBits: halves)
        }
        withExtendedLifetime(files) {}
        print(words[1], words[2], single * Double(count), half * Double(count))
    }
}

func open(_ path: String) throws {
    var model: Model?
    let duration = try ContinuousClock().measure { model = try Model(path) }
    let count = model?.weights.count ?? 0
    print(duration / .seconds(1), count)
}

let arguments = Array(CommandLine.arguments.dropFirst())
switch arguments.first {
case "decode" where arguments.count == 3: try decode(arguments[1], Double(arguments[2]) ?? 1)
case "open" where arguments.count == 2: try open(arguments[1])
default: fatalError("formats-benchmark decode FOLDER SECONDS | open MODEL")
}
