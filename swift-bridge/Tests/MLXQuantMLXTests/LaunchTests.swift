import Foundation
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// What Python wrote for these tests: swift-bridge/Tests/Golden.
func goldenText(_ name: String, from source: String = #filePath) throws -> String {
    let tests = URL(fileURLWithPath: source).deletingLastPathComponent().deletingLastPathComponent()
    return try String(contentsOf: tests.appendingPathComponent("Golden/\(name)"), encoding: .utf8)
}

/// Kernels, grids and texts are those of Python: launches.txt, see tests/swift_package/launches.py.
struct LaunchTests {
    /// The lines that begin with a word, in words.
    private static func lines(_ kind: String) throws -> [[String]] {
        let lines = try goldenText("launches.txt").split(separator: "\n")
        return lines.map { $0.split(separator: " ").map(String.init) }.filter { $0[0] == kind }
    }

    private static func numbers(_ text: String) -> [Int] {
        text == "-" ? [] : text.split(separator: ",").compactMap { Int($0) }
    }

    private static func launch(_ words: [String]) throws -> Launch {
        let format = try #require(WeightFormat(named: words[2]))
        let type = try #require(FloatType(rawValue: words[3]))
        let (x, wire) = (numbers(words[4]), numbers(words[5]))
        switch words[1] {
        case "product": return try Launch.product(format, x: x, wire: wire, type)
        case "gather": return try Launch.gather(format, x: x, wire: wire, type)
        case "dequantize": return try Launch.dequantize(format, wire: wire, type)
        case "dequantize_rows":
            return try Launch.dequantizeRows(format, wire: wire, count: x[0], type)
        default: throw UnknownCall(name: words[1])
        }
    }

    private struct UnknownCall: Error {
        let name: String
    }

    @Test func launchesAreThoseOfPython() throws {
        var (count, refused) = (0, 0)
        for words in try Self.lines("launch") {
            count += 1
            if words[6] == "!" {
                refused += 1
                #expect(throws: FormatError.self) { try Self.launch(words) }
                continue
            }
            let found = try Self.launch(words)
            let (grid, threads) = (found.grid, found.threadgroup)
            let shown = [
                found.kernel.name,
                [grid.x, grid.y, grid.z].map(String.init).joined(separator: ","),
                [threads.x, threads.y, threads.z].map(String.init).joined(separator: ","),
                found.shape.map(String.init).joined(separator: ","),
            ]
            #expect(shown == Array(words[7...]), "\(words[1...5].joined(separator: " "))")
        }
        #expect(count > 1000 && refused == 4)
    }

    @Test func kernelsCallWhatPythonCalls() throws {
        var kernels: [String: Kernel] = [:]
        for words in try Self.lines("launch") where words[6] == "=" {
            let found = try Self.launch(words)
            kernels["\(found.kernel.name) \(words[3])"] = found.kernel
        }
        let lines = try Self.lines("body")
        #expect(lines.count == kernels.count)
        for words in lines {
            let kernel = try #require(kernels["\(words[1]) \(words[2])"])
            #expect(hash(kernel.call(words[3])) == words[4], "\(kernel.name)")
        }
    }

    @Test func textsAreThoseOfPython() throws {
        let lines = try Self.lines("header")
        #expect(Set(lines.map { $0[1] }) == Set(KernelSource.formats))
        for words in lines {
            let kernel = Kernel(name: "", file: words[2], inputs: [], body: "")
            #expect(hash(KernelSource.header(words[1], kernel)) == words[3], "\(words[1...2])")
        }
    }
}

/// SHA-256 of a text.
private func hash(_ text: String) -> String {
    var digest = SHA256Digest()
    var text = text
    text.withUTF8 { digest.update(UnsafeRawBufferPointer($0)) }
    return digest.hexadecimal()
}
