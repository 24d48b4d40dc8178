import Foundation
import TestSupport
import Testing

@testable import MLXQuantFormats

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
            var random = fuzzNumbers(3)
            for _ in 0..<(2_000 * fuzzFactor) {
                try write(mutated(whole, near: whole.count, &random), file)
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
        var random = fuzzNumbers(seed)
        var opened = 0
        for _ in 0..<(runs * fuzzFactor) {
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
