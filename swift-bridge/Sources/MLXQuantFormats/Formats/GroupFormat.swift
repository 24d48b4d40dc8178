/// A format that MLX itself has: groups along the row, in arrays of their own.
///
///     weight   uint32 [n, k · bits / 32]      the codes, packed: low bits first
///     scales   [n, k / groupSize]             one a group; affine has biases of the same shape
///
/// Everything is arithmetic that MLX does on a CPU, operation by operation, in its types.
protocol GroupFormat: Sendable {
    /// Consecutive weights of a row that share a scale.
    var groupSize: Int { get }
    /// Bytes of a group's codes.
    var groupBytes: Int { get }
    /// Bytes of a scale, and of a bias.
    var scaleBytes: Int { get }
    /// Writes the `groupSize` weights of the group that the parts begin with to `out`.
    func decode(_ group: Wire, _ out: UnsafeMutablePointer<Float>)
}

extension Decoder {
    /// The decoder of such groups.
    init(_ groups: some GroupFormat) {
        self.init(
            floats: { wire, count, out in
                var (group, to) = (wire, out)
                for _ in 0..<count {
                    groups.decode(group, to)
                    group.advance(groups.groupBytes, groups.scaleBytes)
                    to += groups.groupSize
                }
            },
            halves: { wire, count, out in
                let size = groups.groupSize
                // several groups, so that what is read back has long been written
                let together = max(1, halvedTogether / size)
                withUnsafeTemporaryAllocation(of: Float.self, capacity: together * size) { room in
                    guard let floats = room.baseAddress else { return }
                    var (group, done) = (wire, 0)
                    while done < count {
                        let some = min(together, count &- done)
                        for index in 0..<some {
                            groups.decode(group, floats + index &* size)
                            group.advance(groups.groupBytes, groups.scaleBytes)
                        }
                        halve(floats, some &* size, out + done &* size)
                        done &+= some
                    }
                }
            }
        )
    }
}

extension WeightFormat {
    /// The format of an entry in an MLX config.json.
    ///
    /// - Parameters:
    ///   - scheme: the entry.
    ///   - floats: `f16`, `bf16` or `f32`; of affine formats the type of scales and biases, of all
    ///     the type in which MLX computes, to which every operation of decoding is rounded. BF16
    ///     stands for any other.
    public init(_ scheme: QuantizationScheme, floats: ElementType) {
        switch floats {
        case .f32: self.init(scheme, RoundToFloat.self, .f32)
        case .f16: self.init(scheme, RoundToHalf.self, .f16)
        default: self.init(scheme, RoundToBFloat.self, .bf16)
        }
    }

    private init<Floats: Rounding>(
        _ scheme: QuantizationScheme,
        _ floats: Floats.Type,
        _ type: ElementType
    ) {
        let decoder: Decoder
        switch scheme.mode {
        case .affine: decoder = affineDecoder(scheme, floats)
        case .mxfp4: decoder = Decoder(MXFP4Groups<Floats>())
        case .mxfp8: decoder = Decoder(MXFP8Groups<Floats>())
        case .nvfp4: decoder = Decoder(NVFP4Groups())
        }
        let affine = scheme.mode == .affine
        let scales = affine ? type : ElementType.u8
        var parts = [
            Part(suffix: "weight", type: .u32, blockBytes: scheme.groupSize * scheme.bits / 8),
            Part(suffix: "scales", type: scales, blockBytes: scales.bits / 8),
        ]
        if affine {
            parts.append(Part(suffix: "biases", type: scales, blockBytes: scales.bits / 8))
        }
        self.init(
            name: scheme.formatName,
            bits: scheme.bits,
            blockSize: scheme.groupSize,
            parts: parts,
            decoder: decoder
        )
    }
}
