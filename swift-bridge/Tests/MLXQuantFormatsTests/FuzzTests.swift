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

/// Decodes the ends of weights.
private func look(at weights: [Weight]) throws(FormatError) {
    for weight in weights {
        for part in weight.parts {
            #expect(part.range.upperBound <= part.file.size)
        }
        if weight.rows > 0, weight.format.isDecodable, weight.columns < 1 << 20 {
            _ = try weight.floats(rows: 0..<1)
            _ = try weight.halfBits(rows: (weight.rows - 1)..<weight.rows)
        }
    }
}

/// Reads every value of the metadata.
private func look(at file: GGUFFile) {
    for value in file.metadata.values {
        _ = (value.int, value.double, value.bool, value.string, value.kind)
        #expect(value.ints?.count ?? value.count == value.count)
        #expect(value.doubles?.count ?? value.count == value.count)
        #expect(value.strings?.count ?? value.count == value.count)
        #expect(value.first(3).count <= 3)
    }
}

/// Opens a model and looks at all of it; whatever is wrong with it has to be a `FormatError` of one
/// line.
private func look(at path: String) {
    do throws(FormatError) {
        let folder = try ModelFolder(path)
        try look(at: folder.weights)
        _ = try folder.tokenizer()
    } catch {
        #expect(isPrintable(error.description))
    }
}

@Suite("Nothing but FormatError comes out of mutated files")
struct FuzzTests {
    @Test("GGUF headers")
    func gguf() throws {
        let seeds = HostileCase.files(HostileCase.cases("gguf", "valid"), ending: ".gguf")
        try fuzz(seeds, runs: 20_000, seed: 1) { (file) throws(FormatError) in
            let header = try GGUFFile(file)
            look(at: header)
            try look(at: header.tensors.map { Weight($0) })
        }
    }

    @Test("safetensors headers")
    func safetensors() throws {
        let seeds = HostileCase.files(HostileCase.cases("valid"), ending: ".safetensors")
        try fuzz(seeds, runs: 20_000, seed: 2) { (file) throws(FormatError) in
            try look(at: try SafetensorsFile(file).tensors.map { Weight($0) })
        }
    }

    @Test(
        "config.json and the index",
        arguments: ["a folder of several schemes", "a folder of shards"]
    )
    func settings(_ name: String) throws {
        let model = try #require(HostileCase.cases("valid").first { $0.name == name })
        try withFolder { folder in
            let path = try model.build(in: folder)
            let name = name.hasSuffix("shards") ? "model.safetensors.index.json" : "config.json"
            let file = URL(fileURLWithPath: "\(path)/\(name)")
            let whole = Array(try Data(contentsOf: file))
            var random = Random(3)
            for _ in 0..<2_000 {
                // a new file each time: cutting an old one short makes some systems write it out
                try FileManager.default.removeItem(at: file)
                try Data(mutated(whole, near: whole.count, &random)).write(to: file)
                look(at: path)
            }
        }
    }

    /// Opens mutations of these files, from memory that ends where they do.
    private func fuzz(
        _ seeds: [[UInt8]],
        runs: Int,
        seed: UInt64,
        _ open: (MappedFile) throws(FormatError) -> Void
    ) throws {
        try #require(!seeds.isEmpty)
        var random = Random(seed)
        var opened = 0
        for _ in 0..<runs {
            let bytes = mutated(seeds[random.below(seeds.count)], near: 1024, &random)
            let file = try MappedFile(copying: bytes, as: "m")
            do throws(FormatError) {
                try open(file)
                opened += 1
            } catch {
                #expect(isPrintable(error.description))
            }
        }
        // mutations that change nothing that matters: else only the first checks are ever reached
        #expect(opened > runs / 100)
    }
}
