/// A format of GGUF files: blocks of bytes.
///
/// A format's file draws its block, names its type and decodes one block; what is here does the rest.
/// Decoding rounds as `decode_blocks` of `mlxquant/formats` does. Swift fuses no multiplication with
/// an addition.
protocol BlockFormat: Sendable {
    /// ggml's type; its sizes are the block's.
    static var type: GGMLType { get }
    /// Width of a code.
    static var bits: Int { get }
    /// Weights of a block, as a constant for the loops.
    static var weights: Int { get }
    /// Bytes of a block, as a constant for the loops.
    static var bytes: Int { get }
    /// Writes the `weights` of the block at `block` to `out`.
    static func decode(_ block: UnsafeRawPointer, _ out: UnsafeMutablePointer<Float>)
}

extension WeightFormat {
    /// The format that decodes such blocks.
    init<Blocks: BlockFormat>(_ blocks: Blocks.Type) {
        self.init(
            name: Blocks.type.name,
            bits: Blocks.bits,
            blockSize: Blocks.weights,
            parts: [Part(suffix: "weight", type: .u8, blockBytes: Blocks.bytes)],
            decoder: Decoder(
                floats: { wire, count, out in
                    for block in 0..<count {
                        Blocks.decode(
                            wire.weight + block &* Blocks.bytes,
                            out + block &* Blocks.weights
                        )
                    }
                },
                halves: { wire, count, out in
                    withUnsafeTemporaryAllocation(of: Float.self, capacity: Blocks.weights) {
                        room in
                        guard let floats = room.baseAddress else { return }
                        for block in 0..<count {
                            Blocks.decode(wire.weight + block &* Blocks.bytes, floats)
                            let to = out + block &* Blocks.weights
                            halve(floats, Blocks.weights, to)
                        }
                    }
                }
            )
        )
    }
}
