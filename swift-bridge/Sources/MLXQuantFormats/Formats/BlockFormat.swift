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
                    // several blocks, so that what is read back has long been written
                    let together = max(1, halvedTogether / Blocks.weights)
                    let capacity = together * Blocks.weights
                    withUnsafeTemporaryAllocation(of: Float.self, capacity: capacity) { room in
                        guard let floats = room.baseAddress else { return }
                        var done = 0
                        while done < count {
                            let some = min(together, count &- done)
                            for index in 0..<some {
                                Blocks.decode(
                                    wire.weight + (done &+ index) &* Blocks.bytes,
                                    floats + index &* Blocks.weights
                                )
                            }
                            let to = out + done &* Blocks.weights
                            halve(floats, some &* Blocks.weights, to)
                            done &+= some
                        }
                    }
                }
            )
        )
    }
}
