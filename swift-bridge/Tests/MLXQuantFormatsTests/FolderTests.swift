import Foundation
import TestSupport
import Testing

@testable import MLXQuantFormats

/// Opens a model of the golden file.
private func open<Result>(_ name: String, _ body: (String) throws -> Result) throws -> Result {
    let model = try #require(HostileCase.cases("valid").first { $0.name == name })
    return try withFolder { try body(try model.build(in: $0)) }
}

@Suite("Folders and split files")
struct FolderTests {
    @Test("per-layer quantization with objects, true, false and null")
    func quantization() throws {
        try open("a folder of several schemes") { path in
            let folder = try ModelFolder(path)
            let quantization = try #require(folder.quantization)
            #expect(quantization.scheme.formatName == "affine4-g32")
            let entries = Dictionary(
                uniqueKeysWithValues: quantization.layers.map { ($0.name, $0.entry) }
            )
            #expect(entries["model.layers.0.mlp.up_proj"] == .standard)
            #expect(entries["model.embed_tokens"] == Quantization.Entry.none)
            #expect(entries["model.layers.7.gone"] == Quantization.Entry.none)
            let weights = Dictionary(uniqueKeysWithValues: folder.weights.map { ($0.name, $0) })
            #expect(weights["model.layers.0.mlp.up_proj.weight"]?.format.name == "affine4-g32")
            #expect(weights["model.layers.0.experts.weight"]?.format.name == "affine8-g32")
            #expect(weights["model.layers.0.experts.weight"]?.shape == [2, 128, 64])
            #expect(weights["model.layers.0.experts.weight"]?.rows == 256)
            #expect(weights["model.layers.0.mx.weight"]?.format.name == "mxfp4")
            #expect(weights["model.embed_tokens.weight"]?.format.name == "BF16")
            #expect(!weights.keys.contains { $0.hasSuffix(".scales") || $0.hasSuffix(".biases") })
            #expect(folder.notes.contains { $0.contains("'model.layers.7.gone'") })
            #expect(try folder.tokenizer()?["model"]?["type"]?.string == "BPE")
        }
    }

    @Test("shards, through the folder's path with and without a slash")
    func shards() throws {
        try open("a folder of shards") { path in
            for path in [path, path + "/"] {
                let model = try Model(path)
                #expect(model.weights.count == 3)
                #expect(model["model.norm.weight"]?.shape == [64])
                #expect(model["no.such.weight"] == nil)
            }
        }
    }

    @Test("a split model, through any of its parts")
    func split() throws {
        try open("a split model") { path in
            let folder = URL(fileURLWithPath: path).deletingLastPathComponent()
            for part in 1...3 {
                let file = folder.appendingPathComponent("m-0000\(part)-of-00003.gguf")
                let model = try GGUFModel(file.path)
                #expect(model.parts.count == 3)
                #expect(model.tensors.map(\.name) == (1...3).map { "blk.0.part_\($0).weight" })
                #expect(model["general.architecture"]?.string == "llama")
                #expect(model.tensor("blk.0.part_3.weight")?.shape == [2, 32])
            }
        }
    }

    @Test("metadata of every type")
    func metadata() throws {
        try open("a GGUF file") { path in
            let file = try GGUFFile(path)
            #expect(file["general.architecture"]?.kind == "str")
            #expect(file["llama.block_count"]?.int == 1)
            #expect(file["llama.block_count"]?.string == nil)
            let tokens = try #require(file["tokenizer.ggml.tokens"])
            #expect((tokens.kind, tokens.count) == ("[str]", 8))
            #expect(tokens.strings?.count == 8)
            #expect(tokens.first(2) == Array(tokens.strings?.prefix(2) ?? []))
            #expect(file["tokenizer.ggml.token_type"]?.ints?.count == 8)
            #expect(file["tokenizer.ggml.scores"]?.doubles?.count == 8)
            #expect(file["tokenizer.ggml.scores"]?.ints == nil)
        }
    }

    @Test("verifying")
    func verify() throws {
        try open("a folder") { path in
            #expect(throws: FormatError.self) { try ModelFolder(path).verify() }
            let names = ["config.json", "model.safetensors"]
            var files: [String: Any] = [:]
            for name in names {
                let size = try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(name)")).count
                files[name] = [
                    "bytes": size, "sha256": try SHA256Digest.of(file: "\(path)/\(name)"),
                ]
            }
            func write(_ files: [String: Any]) throws -> [Problem] {
                let manifest = try JSONSerialization.data(withJSONObject: ["files": files])
                try manifest.write(to: URL(fileURLWithPath: "\(path)/mlxquant.json"))
                return try ModelFolder(path).verify()
            }
            #expect(try write(files).isEmpty)
            #expect(
                try write(["config.json": files["config.json"] ?? 0]).map(\.kind) == [.unlisted]
            )
            let zeros = String(repeating: "0", count: 64)
            for (entry, kind) in [
                ("../config.json", Problem.Kind.unreadable), ("gone.json", .missing),
            ] {
                let extra: [String: Any] = ["bytes": 1, "sha256": zeros]
                let found = try write(files.merging([entry: extra]) { old, _ in old })
                #expect(found.map(\.kind) == [kind])
                #expect(found.map(\.file) == [entry])
            }
            files["config.json"] = ["sha256": zeros]
            let found = try write(files)
            #expect(found.map(\.kind) == [.hash])
            #expect(found.first?.description.contains("the manifest says \(zeros)") == true)
            files["config.json"] = ["bytes": 1, "sha256": zeros]
            #expect(try write(files).map(\.kind) == [.size])
        }
    }
}
