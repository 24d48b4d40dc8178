extension WeightFormat {
    /// The formats of blocks that GGUF files hold; a format is its file and a line here.
    static let blocks: [WeightFormat] = [
        WeightFormat(GGMLMXFP4.self),
        WeightFormat(GGMLNVFP4.self),
        WeightFormat(IQ1_M.self),
        WeightFormat(IQ1_S.self),
        WeightFormat(IQ2_S.self),
        WeightFormat(IQ2_XS.self),
        WeightFormat(IQ2_XXS.self),
        WeightFormat(IQ3_S.self),
        WeightFormat(IQ3_XXS.self),
        WeightFormat(IQ4_NL.self),
        WeightFormat(IQ4_XS.self),
        WeightFormat(Q1_0.self),
        WeightFormat(Q2_0.self),
        WeightFormat(Q2_K.self),
        WeightFormat(Q3_K.self),
        WeightFormat(Q4_0.self),
        WeightFormat(Q4_1.self),
        WeightFormat(Q4_K.self),
        WeightFormat(Q5_0.self),
        WeightFormat(Q5_1.self),
        WeightFormat(Q5_K.self),
        WeightFormat(Q6_K.self),
        WeightFormat(Q8_0.self),
        WeightFormat(Q8_K.self),
        WeightFormat(TQ1_0.self),
        WeightFormat(TQ2_0.self),
    ]

    /// By ggml's type.
    private static let byType: [String: WeightFormat] = Dictionary(
        uniqueKeysWithValues: blocks.map { ($0.name, $0) }
    )

    /// The format of that name.
    ///
    /// - Parameters:
    ///   - name: `Q4_K`, `BF16`, `affine4-g64`, `mxfp4`, …, as `mlxquant` writes it.
    ///   - floats: of MLX's formats the type of scales and arithmetic; see
    ///     ``init(_:floats:)-(QuantizationScheme,_)``.
    public init?(named name: String, floats: ElementType = .bf16) {
        if let type = GGMLType(name: name), type.name == name {
            self.init(type)
            return
        }
        if let type = ElementType(rawValue: name) {
            self.init(type)
            return
        }
        let schemes = QuantizationScheme.Mode.allCases.flatMap(\.schemes)
        guard let scheme = schemes.first(where: { $0.formatName == name }) else { return nil }
        self.init(scheme, floats: floats)
    }

    /// The format of a GGUF tensor's type.
    ///
    /// - Parameter type: of the tensor; `q8_1`, which is for activations, cannot be decoded.
    public init(_ type: GGMLType) {
        if let found = Self.byType[type.name] {
            self = found
        } else if let plain = ElementType(rawValue: type.name) {
            self.init(plain)
        } else {
            self.init(
                name: type.name,
                bits: 8,
                blockSize: type.blockSize,
                parts: [Part(suffix: "weight", type: .u8, blockBytes: type.blockBytes)],
                decoder: nil
            )
        }
    }
}
