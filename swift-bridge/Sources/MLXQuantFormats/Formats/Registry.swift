extension WeightFormat {
    /// The formats of blocks that GGUF files hold; a format is its file and a line here.
    static let blocks: [WeightFormat] = [
        WeightFormat(Q4_0.self),
    ]

    /// By ggml's type.
    private static let byType: [String: WeightFormat] = Dictionary(
        uniqueKeysWithValues: blocks.map { ($0.name, $0) }
    )

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
