/// How a GGUF file stores a tensor's weights, by the type's number in the file.
///
/// Numbers and sizes are those of ggml's `enum ggml_type` and of its block structures
/// (<https://github.com/ggml-org/llama.cpp>, `ggml/include/ggml.h`, `ggml/src/ggml-common.h`).
public enum GGMLType: UInt32, Sendable, Hashable, CaseIterable {
    /// 32-bit floats.
    case f32 = 0
    /// 16-bit floats of IEEE 754.
    case f16 = 1
    /// 4 bits and a scale for 32 weights.
    case q4_0 = 2
    /// 4 bits, a scale and an offset for 32 weights.
    case q4_1 = 3
    /// 5 bits and a scale for 32 weights.
    case q5_0 = 6
    /// 5 bits, a scale and an offset for 32 weights.
    case q5_1 = 7
    /// 8 bits and a scale for 32 weights.
    case q8_0 = 8
    /// 8 bits, a scale and a sum for 32 activations; not decoded here.
    case q8_1 = 9
    /// 2 bits, in super-blocks with scales and minimums.
    case q2_K = 10
    /// 3 bits, in super-blocks with scales.
    case q3_K = 11
    /// 4 bits, in super-blocks with scales and minimums.
    case q4_K = 12
    /// 5 bits, in super-blocks with scales and minimums.
    case q5_K = 13
    /// 6 bits, in super-blocks with scales.
    case q6_K = 14
    /// 8 bits and a scale for 256 activations.
    case q8_K = 15
    /// Points of a codebook of 256, with signs, at 2.06 bits.
    case iq2_xxs = 16
    /// Points of a codebook of 512, with signs, at 2.31 bits.
    case iq2_xs = 17
    /// Points of a codebook of 256, with signs, at 3.06 bits.
    case iq3_xxs = 18
    /// Shifted points of a codebook of 2048, at 1.56 bits.
    case iq1_s = 19
    /// 4 bits that name levels, and a scale for 32 weights.
    case iq4_nl = 20
    /// Points of a codebook of 512, with signs, at 3.44 bits.
    case iq3_s = 21
    /// Points of a codebook of 1024, with signs, at 2.56 bits.
    case iq2_s = 22
    /// 4 bits that name levels, in super-blocks with scales.
    case iq4_xs = 23
    /// Signed 8-bit integers.
    case i8 = 24
    /// Signed 16-bit integers.
    case i16 = 25
    /// Signed 32-bit integers.
    case i32 = 26
    /// Signed 64-bit integers.
    case i64 = 27
    /// 64-bit floats.
    case f64 = 28
    /// Shifted points of a codebook of 2048, at 1.75 bits.
    case iq1_m = 29
    /// The upper halves of 32-bit floats.
    case bf16 = 30
    /// Three levels, five weights to a byte.
    case tq1_0 = 34
    /// Three levels, four weights to a byte.
    case tq2_0 = 35
    /// 4-bit floats, a power of two for 32 weights.
    case mxfp4 = 39
    /// 4-bit floats, an 8-bit float for 16 weights.
    case nvfp4 = 40
    /// Signs, and a scale for 128 weights.
    case q1_0 = 41
    /// 2 bits and a scale for 64 weights.
    case q2_0 = 42

    /// llama.cpp's name, such as `Q4_K`.
    public var name: String {
        "\(self)".uppercased()
    }

    /// How many weights a block has; 1 for plain numbers.
    public var blockSize: Int {
        layout.weights
    }

    /// How many bytes a block takes.
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
