import MLXQuantFormats

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Rotary position embeddings: pairs of a head's values are turned by an angle that grows with the
/// token's position.
///
///     angle of pair i   position · base^(-2i / size), scaled as the model says
///     pairs             (i, i + size / 2), or, interleaved, (2i, 2i + 1)
struct RotaryEmbedding: Sendable {
    /// Radians a position, for each pair.
    private(set) var frequencies: [Float]
    /// What values are multiplied by besides.
    private(set) var magnitude: Float = 1
    let isInterleaved: Bool

    var size: Int { 2 * frequencies.count }

    init(size: Int, base: Double, isInterleaved: Bool = false) {
        self.isInterleaved = isInterleaved
        frequencies = (0..<(size / 2)).map { Float(pow(base, -2 * Double($0) / Double(size))) }
    }

    mutating func scaleLinearly(by factor: Double) {
        frequencies = frequencies.map { Float(Double($0) / factor) }
    }

    mutating func divide(by divisors: [Float]) {
        frequencies = zip(frequencies, divisors).map { $0 / $1 }
    }

    /// Llama 3's: long waves are stretched, short ones are not, and those between in part.
    mutating func scaleAsLlama3(factor: Double, low: Double, high: Double, original: Double) {
        frequencies = frequencies.map { frequency in
            let length = 2 * Double.pi / Double(frequency)
            if length > original / low { return Float(Double(frequency) / factor) }
            if length <= original / high { return frequency }
            let smooth = (original / length - low) / (high - low)
            return Float(Double(frequency) * ((1 - smooth) / factor + smooth))
        }
    }

    /// YaRN, <https://arxiv.org/abs/2309.00071>; without a magnitude, values are multiplied by what
    /// the factor calls for.
    mutating func scaleByYarn(
        base: Double,
        factor: Double,
        original: Int,
        fast: Double,
        slow: Double,
        magnitude: Double?
    ) {
        let count = Double(size)
        func dimension(_ rotations: Double) -> Double {
            count * log(Double(original) / (rotations * 2 * Double.pi)) / (2 * log(base))
        }
        let first = max(0, dimension(fast).rounded(.down))
        var last = min(count - 1, dimension(slow).rounded(.up))
        if first == last { last += 0.001 }
        frequencies = frequencies.enumerated().map { index, frequency in
            let ramp = min(1, max(0, (Double(index) - first) / (last - first)))
            return Float(Double(frequency) * ((1 - ramp) + ramp / factor))
        }
        self.magnitude = Float(magnitude ?? (factor > 1 ? 0.1 * log(factor) + 1 : 1))
    }

    /// Turns the heads of one token.
    ///
    /// - Parameters:
    ///   - values: the heads, one after the other.
    ///   - heads: how many.
    ///   - angles: cosines, then sines, of this position, one a pair.
    func apply(
        to values: UnsafeMutablePointer<Float>,
        heads: Int,
        angles: UnsafePointer<Float>
    ) {
        let half = frequencies.count
        let sines = angles + half
        for head in 0..<heads {
            let base = values + head * size
            for index in 0..<half {
                let one = isInterleaved ? 2 * index : index
                let other = isInterleaved ? one + 1 : index + half
                let (x, y) = (base[one], base[other])
                base[one] = x * angles[index] - y * sines[index]
                base[other] = x * sines[index] + y * angles[index]
            }
        }
    }

    /// Writes the cosines and sines of a position, with the magnitude in them: `size` values.
    func angles(at position: Int, into out: UnsafeMutablePointer<Float>) {
        let half = frequencies.count
        for (index, frequency) in frequencies.enumerated() {
            let angle = Float(position) * frequency
            out[index] = cos(angle) * magnitude
            out[index + half] = sin(angle) * magnitude
        }
    }
}

extension RotaryEmbedding {
    /// As a config.json says.
    init(
        _ settings: Settings,
        size: Int,
        base: Double,
        isInterleaved: Bool
    ) throws(FormatError) {
        guard base > 1 else { throw settings.wrong("rope_theta", "\(base): above 1 expected") }
        self.init(size: size, base: base, isInterleaved: isInterleaved)
        var scaling = settings.object["rope_scaling"]?.object
        if scaling == nil, var nested = settings.object["rope_parameters"]?.object {
            if let full = nested["full_attention"]?.object { nested = full }
            scaling = nested
        }
        guard let scaling else { return }
        let part = Settings(object: scaling, path: settings.path)
        let kind = scaling["rope_type"]?.string ?? scaling["type"]?.string ?? "default"
        let factor = try part.real("factor", default: 1)
        guard factor > 0 else { throw settings.wrong("rope_scaling.factor", "not above 0") }
        switch kind {
        case "default", "mrope": break
        case "linear": scaleLinearly(by: factor)
        case "llama3":
            let low = try part.real("low_freq_factor", default: 1)
            let high = try part.real("high_freq_factor", default: 4)
            guard low > 0, high > low else {
                throw settings.wrong(
                    "rope_scaling",
                    "low_freq_factor is not below high_freq_factor"
                )
            }
            let original = try part.count(
                "original_max_position_embeddings",
                default: 8192,
                most: 1 << 30
            )
            scaleAsLlama3(factor: factor, low: low, high: high, original: Double(original))
        case "yarn":
            func magnitude(_ key: String, _ standard: Double) throws(FormatError) -> Double {
                let weight = try part.real(key, default: standard)
                return factor > 1 ? 0.1 * weight * log(factor) + 1 : 1
            }
            scaleByYarn(
                base: base,
                factor: factor,
                original: try part.count(
                    "original_max_position_embeddings",
                    default: 4096,
                    most: 1 << 30
                ),
                fast: try part.real("beta_fast", default: 32),
                slow: try part.real("beta_slow", default: 1),
                magnitude: try magnitude("mscale", 1) / magnitude("mscale_all_dim", 0)
            )
        default: throw settings.wrong("rope_scaling", "\(quoted(kind)) is not supported")
        }
    }
}
