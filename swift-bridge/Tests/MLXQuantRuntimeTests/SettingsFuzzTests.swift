import Foundation
import TestSupport
import Testing

@testable import MLXQuantFormats
@testable import MLXQuantRuntime

/// Settings of a model of each kind.
private let seeds: [JSONObject] = [
    """
    {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 131072, "tie_word_embeddings": false, "eos_token_id": [1, 2], "rope_scaling":
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}, "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 512}
    """,
    """
    {"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_hidden_layers": 7, "head_dim": 16,
    "intermediate_size": 128, "query_pre_attn_scalar": 256, "sliding_window": 512,
    "sliding_window_pattern": 6, "rope_local_base_freq": 10000, "rope_scaling": {"rope_type": "linear",
    "factor": 8.0}}, "eos_token_id": 1}
    """,
    """
    {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 128, "rope_parameters": {"rope_theta":
    1e6, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5}}
    """,
    """
    {"model_type": "gemma2", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 144, "sliding_window": 4096}
    """,
].compactMap { text in
    Array(text.utf8).withUnsafeBytes { bytes in
        var parser = JSONParser(bytes)
        return try? parser.whole().object
    }
}

/// Uses what is computed from settings.
private func use(_ config: ModelConfiguration) {
    #expect(config.windows.count == config.layers)
    #expect(config.rope.size == config.headSize)
    var angles = [Float](repeating: 0, count: config.headSize)
    config.rope.angles(at: 1 << 20, into: &angles)
    config.localRope?.angles(at: 1 << 20, into: &angles)
}

/// A GGUF file of metadata alone.
private struct Metadata {
    private var entries: [[UInt8]] = []

    private static func number<Number: FixedWidthInteger>(_ value: Number) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }

    private static func text(_ text: String) -> [UInt8] {
        number(UInt64(text.utf8.count)) + text.utf8
    }

    private mutating func add(_ key: String, _ type: UInt32, _ value: [UInt8]) {
        entries.append(Self.text(key) + Self.number(type) + value)
    }

    mutating func set(_ key: String, _ value: String) { add(key, 8, Self.text(value)) }

    mutating func set(_ key: String, _ value: UInt32) { add(key, 4, Self.number(value)) }

    mutating func set(_ key: String, _ value: Float) { add(key, 6, Self.number(value.bitPattern)) }

    mutating func set(_ key: String, _ value: Bool) { add(key, 7, [value ? 1 : 0]) }

    private mutating func set(_ key: String, _ type: UInt32, _ items: [[UInt8]]) {
        add(key, 9, Self.number(type) + Self.number(UInt64(items.count)) + items.joined())
    }

    mutating func set(_ key: String, _ values: [String]) { set(key, 8, values.map(Self.text)) }

    mutating func set(_ key: String, _ values: [Int32]) { set(key, 5, values.map(Self.number)) }

    mutating func set(_ key: String, _ values: [Float]) {
        set(key, 6, values.map { Self.number($0.bitPattern) })
    }

    var bytes: [UInt8] {
        Array("GGUF".utf8) + Self.number(UInt32(3)) + Self.number(UInt64(0))
            + Self.number(UInt64(entries.count)) + entries.joined()
    }

    /// A vocabulary of characters with scores, as Llama 2's.
    static let characters: [UInt8] = {
        var data = Metadata()
        let tokens =
            ["<unk>", "<s>", "</s>"] + (0..<256).map(byteToken) + [
                "a", "b", "ab", "\u{2581}", "e\u{301}", "\u{E9}",
            ]
        data.set("tokenizer.ggml.bos_token_id", UInt32(1))
        data.set("tokenizer.ggml.add_space_prefix", true)
        data.set("tokenizer.chat_template", "{{ messages }}")
        data.set("tokenizer.ggml.model", "llama")
        data.set("general.architecture", "gemma3")
        for (key, value) in [
            ("embedding_length", 64), ("block_count", 7), ("attention.head_count", 4),
            ("feed_forward_length", 128),
            ("attention.key_length", 16), ("attention.sliding_window", 512),
        ] { data.set("gemma3.\(key)", UInt32(value)) }
        data.set("gemma3.rope.freq_base", Float(1e6))
        data.set(
            "tokenizer.ggml.token_type",
            [Int32](repeating: 6, count: tokens.count).enumerated().map {
                Int32($0.offset < 3 ? 3 : $0.offset < 259 ? 6 : 1)
            }
        )
        data.set("tokenizer.ggml.scores", tokens.indices.map { Float(-$0) })
        data.set("tokenizer.ggml.tokens", tokens)
        return data.bytes
    }()

    /// A vocabulary of bytes with merges, as GPT-2's.
    static let pairs: [UInt8] = {
        var data = Metadata()
        let letters = ByteAlphabet.characters.map { String(Unicode.Scalar($0) ?? "?") }
        data.set("tokenizer.ggml.eos_token_id", UInt32(258))
        data.set("tokenizer.ggml.pre", "qwen2")
        data.set("tokenizer.ggml.add_bos_token", false)
        data.set("tokenizer.chat_template.tool_use", "{{ tools }}")
        data.set("tokenizer.ggml.model", "gpt2")
        data.set("general.name", "Phi-3 x")
        data.set("general.architecture", "llama")
        for (key, value) in [
            ("embedding_length", 64), ("block_count", 2), ("attention.head_count", 4),
            ("feed_forward_length", 128),
            ("attention.head_count_kv", 2), ("context_length", 4096),
            ("rope.scaling.original_context_length", 1024),
        ] { data.set("llama.\(key)", UInt32(value)) }
        data.set("llama.rope.scaling.type", "yarn")
        data.set("llama.rope.scaling.factor", Float(4))
        data.set("tokenizer.ggml.merges", ["a b", "\u{120} a"])
        data.set("tokenizer.ggml.tokens", letters + ["ab", "\u{120}a", "<|im_end|>"])
        return data.bytes
    }()
}

@Suite("Nothing but FormatError comes out of mutated settings")
struct SettingsFuzzTests {
    @Test("config.json and generation_config.json")
    func folders() throws {
        #expect(seeds.count == 4)
        try withFolder { folder in
            let header = Array(#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.utf8)
            let length = [UInt8(header.count), 0, 0, 0, 0, 0, 0, 0]
            try write(
                length + header + [0, 0, 0, 0],
                folder.appendingPathComponent("model.safetensors")
            )
            let options =
                #"{"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0, "do_sample": true}"#
            var random = fuzzNumbers(41)
            var opened = 0
            for run in 0..<(300 * fuzzFactor) {
                let seed = JSON.object(random.pick(seeds))
                let config = run < seeds.count ? .object(seeds[run]) : mutated(seed, &random)
                try write(config.description.utf8, folder.appendingPathComponent("config.json"))
                var recommended = Array(options.utf8)
                if random.once(in: 4) {
                    let near = recommended.count
                    recommended = TestSupport.mutated(recommended, near: near, &random)
                }
                try write(recommended, folder.appendingPathComponent("generation_config.json"))
                do throws(FormatError) {
                    let model = try ModelFolder(folder.path)
                    use(try ModelConfiguration(model))
                    opened += 1
                    _ = try GenerationOptions(recommendedBy: model)
                } catch {
                    #expect(isPrintable(error.description))
                }
            }
            #expect(opened > 30)
        }
    }

    @Test("a GGUF file's metadata", arguments: [Metadata.characters, Metadata.pairs])
    func metadata(_ seed: [UInt8]) throws {
        let (tokenizers, models) = try onSmallStack {
            var random = fuzzNumbers(42)
            var tokenizers = 0
            var models = 0
            for run in 0..<(800 * fuzzFactor) {
                let near = random.once(in: 2) ? seed.count : 900
                let bytes = run == 0 ? seed : TestSupport.mutated(seed, near: near, &random)
                do throws(FormatError) {
                    let file = try GGUFFile(try MappedFile(copying: bytes, as: "m"))
                    let model = GGUFModel(parts: [file])
                    do throws(FormatError) {
                        use(try ModelConfiguration(model, frequencies: nil))
                        models += 1
                    } catch {
                        #expect(isPrintable(error.description) && run > 0)
                    }
                    let tokenizer = try Tokenizer(gguf: model)
                    let ids = try tokenizer.encode("ab e\u{301}\u{E9}<|im_end|>  a\u{1F999}</s>")
                    _ = tokenizer.decode(ids)
                    tokenizers += 1
                } catch {
                    #expect(isPrintable(error.description) && run > 0)
                }
            }
            return (tokenizers, models)
        }
        #expect(tokenizers > 10 && models > 10, "\(tokenizers) tokenizers, \(models) models")
    }
}
