/// config.json as mlx-swift-lm decodes it: the rules of its `BaseConfiguration`, in a type of our own.
///
/// Of `quantization` the members `group_size` and `bits` must be numbers, `mode` one that MLX has; a few
/// names are other tools'; any other member is a layer: `false` for one that is not packed, `true`
/// changes nothing, and what is no truth value must be a group size with bits. So `null` is refused
/// there, and so are numbers that are missing or `null`.
struct BaseConfiguration: Decodable {
    /// How a layer is packed.
    struct Packing: Decodable, Equatable {
        let groupSize: Int
        let bits: Int
        let mode: String

        init(groupSize: Int, bits: Int, mode: String) {
            (self.groupSize, self.bits, self.mode) = (groupSize, bits, mode)
        }

        enum Key: String, CodingKey {
            case groupSize = "group_size"
            case bits, mode
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Key.self)
            groupSize = try container.decode(Int.self, forKey: .groupSize)
            bits = try container.decode(Int.self, forKey: .bits)
            let said = try container.decodeIfPresent(Mode.self, forKey: .mode)
            mode = (said ?? .affine).rawValue
        }
    }

    enum Mode: String, Decodable {
        case affine, mxfp4, mxfp8, nvfp4
    }

    /// The top level's packing, and what layers have to themselves; nil for one that is not packed.
    struct Quantization: Decodable {
        let standard: Packing
        private(set) var layers: [String: Packing?] = [:]

        init(from decoder: any Decoder) throws {
            standard = try Packing(from: decoder)
            let container = try decoder.container(keyedBy: Name.self)
            let others = ["quant_method", "linear_class", "quantization_mode"]
            for key in container.allKeys where Packing.Key(rawValue: key.stringValue) == nil {
                if others.contains(key.stringValue) { continue }
                if let isPacked = try? container.decode(Bool.self, forKey: key) {
                    if !isPacked { layers[key.stringValue] = .some(nil) }
                } else {
                    layers[key.stringValue] = try container.decode(Packing.self, forKey: key)
                }
            }
        }

        func packing(of layer: String) -> Packing? {
            layers[layer] ?? standard
        }
    }

    /// A number or several.
    struct Numbers: Decodable {
        let values: [Int]

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            values = try (try? container.decode([Int].self)) ?? [container.decode(Int.self)]
        }
    }

    private struct Text: Decodable {
        let ends: Numbers?

        enum CodingKeys: String, CodingKey {
            case ends = "eos_token_id"
        }
    }

    private struct Name: CodingKey {
        let stringValue: String
        var intValue: Int? { nil }

        init(stringValue: String) {
            self.stringValue = stringValue
        }

        init?(intValue: Int) {
            return nil
        }
    }

    let modelType: String
    let quantization: Quantization?
    let ends: Numbers?
    private let text: Text?

    enum CodingKeys: String, CodingKey {
        case modelType = "model_type"
        case quantization
        case ends = "eos_token_id"
        case text = "text_config"
    }
}
