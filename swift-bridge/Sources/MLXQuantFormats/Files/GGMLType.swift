/// How a GGUF file stores a tensor's weights, by the type's number in the file.
///
/// Numbers and sizes are those of ggml's `enum ggml_type` and of its block structures
/// (<https://github.com/ggml-org/llama.cpp>, `ggml/include/ggml.h`, `ggml/src/ggml-common.h`).
public enum GGMLType: UInt32, Sendable, Hashable, CaseIterable {
    case f32 = 0
    case f16 = 1
    case q4_0 = 2
    case q4_1 = 3
    case q5_0 = 6
    case q5_1 = 7
    case q8_0 = 8
    case q8_1 = 9
    case q2_K = 10
    case q3_K = 11
    case q4_K = 12
    case q5_K = 13
    case q6_K = 14
    case q8_K = 15
    case iq2_xxs = 16
    case iq2_xs = 17
    case iq3_xxs = 18
    case iq1_s = 19
    case iq4_nl = 20
    case iq3_s = 21
    case iq2_s = 22
    case iq4_xs = 23
    case i8 = 24
    case i16 = 25
    case i32 = 26
    case i64 = 27
    case f64 = 28
    case iq1_m = 29
    case bf16 = 30
    case tq1_0 = 34
    case tq2_0 = 35
    case mxfp4 = 39
    case nvfp4 = 40
    case q1_0 = 41
    case q2_0 = 42

    /// llama.cpp's name, such as `Q4_K`.
    public var name: String {
        "\(self)".uppercased()
    }

    /// Weights of a block; 1 for plain numbers.
    public var blockSize: Int {
        layout.weights
    }

    /// Bytes of a block.
    public var blockBytes: Int {
        layout.bytes
    }

    /// The type of that name, in any case; nil where there is none.
    public init?(name: String) {
        let wanted = name.uppercased()
        guard let found = Self.allCases.first(where: { $0.name == wanted }) else { return nil }
        self = found
    }

    // Sizes are sums of a block's fields, in their order.
    private var layout: (weights: Int, bytes: Int) {
        switch self {
        case .f32: (1, 4)
        case .f16: (1, 2)
        case .q4_0: (32, 2 + 16)
        case .q4_1: (32, 2 + 2 + 16)
        case .q5_0: (32, 2 + 4 + 16)
        case .q5_1: (32, 2 + 2 + 4 + 16)
        case .q8_0: (32, 2 + 32)
        case .q8_1: (32, 2 + 2 + 32)
        case .q2_K: (256, 16 + 64 + 2 + 2)
        case .q3_K: (256, 32 + 64 + 12 + 2)
        case .q4_K: (256, 2 + 2 + 12 + 128)
        case .q5_K: (256, 2 + 2 + 12 + 32 + 128)
        case .q6_K: (256, 128 + 64 + 16 + 2)
        case .q8_K: (256, 4 + 256 + 32)
        case .iq2_xxs: (256, 2 + 64)
        case .iq2_xs: (256, 2 + 64 + 8)
        case .iq3_xxs: (256, 2 + 96)
        case .iq1_s: (256, 2 + 32 + 16)
        case .iq4_nl: (32, 2 + 16)
        case .iq3_s: (256, 2 + 64 + 8 + 32 + 4)
        case .iq2_s: (256, 2 + 64 + 8 + 8)
        case .iq4_xs: (256, 2 + 2 + 4 + 128)
        case .i8: (1, 1)
        case .i16: (1, 2)
        case .i32: (1, 4)
        case .i64: (1, 8)
        case .f64: (1, 8)
        case .iq1_m: (256, 32 + 16 + 8)
        case .bf16: (1, 2)
        case .tq1_0: (256, 48 + 4 + 2)
        case .tq2_0: (256, 64 + 2)
        case .mxfp4: (32, 1 + 16)
        case .nvfp4: (64, 4 + 32)
        case .q1_0: (128, 2 + 16)
        case .q2_0: (64, 2 + 16)
        }
    }

    /// What numbers were that ggml no longer reads.
    static let retired: [UInt32: String] = [
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    ]
}
