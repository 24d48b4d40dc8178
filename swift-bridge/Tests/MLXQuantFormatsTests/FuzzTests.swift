import Foundation
import Testing

@testable import MLXQuantFormats

/// A stream of numbers from a seed.
private struct Random {
    private var state: UInt64

    init(_ seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    mutating func below(_ limit: Int) -> Int {
        Int(truncatingIfNeeded: next() % UInt64(limit))
    }
}

/// Numbers at which things go wrong.
private let telling: [UInt64] = [
    0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32,
    1 << 61, (1 << 63) - 1, 1 << 63, .max, .max - 31,
]
/// What headers are made of.
private let words = [
    "{", "}", "[", "]", "\"", ",", ":", "null", "true", "-1", "1e999", "\\u0000", "\\ud800", "F32",
    "U32", "F4", "bits", "mode", "mxfp4", "group_size", "../x", "9223372036854775808", "GGUF",
].map { Array($0.utf8) }

/// One to eight small changes, most of them among the first `near` bytes.
private func mutated(_ bytes: [UInt8], near: Int, _ random: inout Random) -> [UInt8] {
    var bytes = bytes
    for _ in 0...random.below(8) {
        let limit = random.below(8) == 0 ? bytes.count : min(bytes.count, near)
        let at = limit == 0 ? 0 : random.below(limit)
        switch random.below(7) {
        case 0 where !bytes.isEmpty: bytes[at] ^= 1 << UInt8(random.below(8))
        case 1 where !bytes.isEmpty: bytes[at] = UInt8(truncatingIfNeeded: random.next())
        case 2, 3:
            let number = telling[random.below(telling.count)]
            let size = [1, 2, 4, 8][random.below(4)]
            let raw = (0..<size).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) }
            bytes.replaceSubrange(at..<min(at + size, bytes.count), with: raw)
        case 4: bytes.insert(contentsOf: words[random.below(words.count)], at: at)
        case 5:
            let end = min(bytes.count, at + random.below(16))
            bytes.removeSubrange(at..<end)
        default:
            let end = min(bytes.count, at + random.below(64))
            bytes.insert(contentsOf: bytes[at..<end], at: random.below(bytes.count + 1))
        }
    }
    if random.below(16) == 0 {
        bytes.removeLast(random.below(bytes.count + 1))
    }
    return bytes
}

/// Opens a model, looks at all that it says, and decodes its ends; whatever is wrong with it has to
/// be a `FormatError` of one line.
private func look(at path: String) throws {
    do throws(FormatError) {
        let model = try Model(path)
        for weight in model.weights {
            for part in weight.parts {
                #expect(part.range.upperBound <= part.file.size)
            }
            guard weight.rows > 0, weight.format.isDecodable, weight.columns < 1 << 20 else { continue }
            _ = try weight.floats(rows: 0..<1)
            _ = try weight.halfBits(rows: (weight.rows - 1)..<weight.rows)
        }
        switch model.container {
        case .folder(let folder): _ = try folder.tokenizer()
        case .gguf(let gguf):
            for file in gguf.parts {
                for key in file.keys {
                    let value = try require(file[key], key)
                    _ = (value.int, value.double, value.bool, value.string, value.kind)
                    #expect(value.ints?.count ?? value.count == value.count)
                    #expect(value.doubles?.count ?? value.count == value.count)
                    #expect(value.strings?.count ?? value.count == value.count)
                    #expect(value.first(3).count <= 3)
                }
            }
            try gguf.checkModel()
            try gguf.checkVocabulary()
        case .safetensors: break
        }
    } catch {
        #expect(isPrintable(error.description))
    }
}

/// `#require` that throws the one error that is allowed here.
private func require<Value>(_ value: Value?, _ what: String) throws(FormatError) -> Value {
    guard let value else { throw FormatError(.request, field: what, reason: "gone") }
    return value
}

@Suite("Nothing but FormatError comes out of mutated files")
struct FuzzTests {
    @Test("GGUF headers")
    func gguf() throws {
        try fuzz("gguf", runs: 12_000, seed: 1)
    }

    @Test("safetensors headers")
    func safetensors() throws {
        try withFolder { folder in
            let valid = HostileCase.cases("valid").filter { $0.name.hasPrefix("a folder") }
            var seeds: [[UInt8]] = []
            for (index, model) in valid.enumerated() {
                let place = folder.appendingPathComponent("\(index)")
                try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
                let built = try model.build(in: place)
                for name in try FileManager.default.contentsOfDirectory(atPath: built).sorted()
                where name.hasSuffix(".safetensors") {
                    seeds.append(Array(try Data(contentsOf: URL(fileURLWithPath: "\(built)/\(name)"))))
                }
            }
            try fuzz(seeds, in: folder, "m.safetensors", runs: 12_000, seed: 2)
        }
    }

    @Test("config.json and the index", arguments: ["a folder of several schemes", "a folder of shards"])
    func settings(_ name: String) throws {
        let model = try #require(HostileCase.cases("valid").first { $0.name == name })
        try withFolder { folder in
            let path = try model.build(in: folder)
            let file = name.hasSuffix("shards") ? "model.safetensors.index.json" : "config.json"
            let whole = Array(try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(file)")))
            var random = Random(3)
            for _ in 0..<3_000 {
                let bytes = mutated(whole, near: whole.count, &random)
                try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(file)"))
                try look(at: path)
            }
        }
    }

    private func fuzz(_ group: String, runs: Int, seed: UInt64) throws {
        let broken = HostileCase.cases(group) + HostileCase.cases("valid")
        let contents = broken.flatMap { hostile in
            hostile.entries.compactMap { entry -> [UInt8]? in
                guard case .file(let name, let content, 0) = entry, name.hasSuffix(".gguf") else {
                    return nil
                }
                return HostileCase.golden.contents[content]
            }
        }
        try withFolder { folder in
            let small = contents.filter { $0.count < 4096 }
            try fuzz(small, in: folder, "m.gguf", runs: runs, seed: seed)
        }
    }

    private func fuzz(
        _ seeds: [[UInt8]],
        in folder: URL,
        _ name: String,
        runs: Int,
        seed: UInt64
    ) throws {
        try #require(!seeds.isEmpty)
        var random = Random(seed)
        let file = folder.appendingPathComponent(name)
        for _ in 0..<runs {
            let bytes = mutated(seeds[random.below(seeds.count)], near: 1024, &random)
            try Data(bytes).write(to: file)
            try look(at: file.path)
        }
    }
}
