import Foundation
import Testing

/// What mlxquant writes into config.json opens in mlx-swift-lm: configs.json, see
/// tests/swift_package/configs.py.
struct ConfigurationTests {
    /// How a layer is packed, as Python has it: `[64, 4, "affine"]`.
    struct Expected: Decodable, Equatable {
        let packing: BaseConfiguration.Packing

        init(from decoder: any Decoder) throws {
            var container = try decoder.unkeyedContainer()
            packing = BaseConfiguration.Packing(
                groupSize: try container.decode(Int.self),
                bits: try container.decode(Int.self),
                mode: try container.decode(String.self)
            )
        }
    }

    struct Case: Decodable, CustomTestStringConvertible, Sendable {
        let name: String
        let config: String
        let tokenizerClass: String?
        let tokenizerConfig: String?
        let layers: [String: Expected?]

        enum CodingKeys: String, CodingKey {
            case name, config, layers
            case tokenizerClass = "tokenizer_class"
            case tokenizerConfig = "tokenizer_config"
        }

        var testDescription: String { name }
    }

    struct TokenizerConfiguration: Decodable {
        let tokenizerClass: String?

        enum CodingKeys: String, CodingKey {
            case tokenizerClass = "tokenizer_class"
        }
    }

    static let cases: [Case] = {
        let text = try? goldenText("configs.json")
        return text.flatMap { try? JSONDecoder().decode([Case].self, from: Data($0.utf8)) } ?? []
    }()

    private static func decode<Value: Decodable>(
        _ type: Value.Type,
        _ text: String
    ) throws -> Value {
        let decoder = JSONDecoder()
        decoder.allowsJSON5 = true
        return try decoder.decode(type, from: Data(text.utf8))
    }

    @Test func thereAreCases() {
        #expect(Self.cases.count == 15)
        #expect(Set(Self.cases.compactMap(\.tokenizerClass)).count == 4)
    }

    @Test(arguments: cases)
    func everyLayerIsAsItIsStored(_ each: Case) throws {
        let config = try Self.decode(BaseConfiguration.self, each.config)
        #expect(!config.modelType.isEmpty)
        #expect(!each.layers.isEmpty)
        for (layer, expected) in each.layers {
            let found = config.quantization?.packing(of: layer)
            #expect(found == expected?.packing, "\(layer)")
        }
        // an entry is for a layer that is there
        for layer in config.quantization?.layers.keys ?? [:].keys {
            #expect(each.layers.keys.contains(layer), "\(layer)")
        }
    }

    @Test(arguments: cases)
    func theTokenizersClassIsKept(_ each: Case) throws {
        let text = try #require(each.tokenizerConfig)
        let config = try Self.decode(TokenizerConfiguration.self, text)
        #expect(config.tokenizerClass == each.tokenizerClass)
        let name = try #require(config.tokenizerClass).replacing("Fast", with: "")
        #expect(Self.tokenizers.contains(name))
    }

    /// The classes that swift-transformers (1.3) opens as byte-pair encodings, less the `Fast` that it
    /// takes away. It refuses a class that it does not know.
    private static let tokenizers: Set = [
        "CodeGenTokenizer", "CodeLlamaTokenizer", "CohereTokenizer", "FalconTokenizer",
        "GPT2Tokenizer", "GemmaTokenizer", "LlamaTokenizer", "PreTrainedTokenizer",
        "Qwen2Tokenizer", "RobertaTokenizer", "TokenizersBackend", "WhisperTokenizer",
    ]

    /// The rules are strict: what mlx-swift-lm refuses is refused here.
    @Test func whatWouldNotOpen() throws {
        let wrong = [
            #"{"bits": 4}"#, #"{"group_size": 64}"#, #"{"group_size": null, "bits": 4}"#,
            #"{"group_size": 64, "bits": 4, "mode": "other"}"#,
            #"{"group_size": 64, "bits": 4, "layer": null}"#,
            #"{"group_size": 64, "bits": 4, "layer": {"bits": 8}}"#,
            #"{"group_size": 64, "bits": 4, "layer": {"bits": 8, "group_size": null}}"#,
        ]
        for quantization in wrong {
            let text = "{\"model_type\": \"llama\", \"quantization\": \(quantization)}"
            #expect(throws: DecodingError.self) { try Self.decode(BaseConfiguration.self, text) }
        }
        let fine =
            #"{"group_size": 64, "bits": 4, "mode": null, "a": false, "b": true, "c": {"group_size": 32, "bits": 8}}"#
        let config = try Self.decode(
            BaseConfiguration.self,
            "{\"model_type\": \"llama\", \"quantization\": \(fine), \"eos_token_id\": 2}"
        )
        let found = try #require(config.quantization)
        #expect(found.packing(of: "a") == nil && found.packing(of: "b") == found.standard)
        #expect(found.packing(of: "c") == .init(groupSize: 32, bits: 8, mode: "affine"))
        #expect(config.ends?.values == [2])
    }
}
