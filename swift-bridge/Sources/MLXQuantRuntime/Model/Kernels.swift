#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Loops over floats. Pointers and counts are trusted; sums are in float32.
///
/// Vectors are as wide as two registers of the oldest processors: the compiler splits and joins them.
/// Products and sums are written apart, because a fused one is a call where processors lack it.
enum Kernels {
    typealias Vector = SIMD8<Float>

    @inline(__always)
    static func load(_ pointer: UnsafePointer<Float>) -> Vector {
        UnsafeRawPointer(pointer).loadUnaligned(as: Vector.self)
    }

    @inline(__always)
    static func store(_ vector: Vector, _ pointer: UnsafeMutablePointer<Float>) {
        UnsafeMutableRawPointer(pointer).storeBytes(of: vector, as: Vector.self)
    }

    /// Σ x · y
    static func dot(
        _ x: UnsafePointer<Float>,
        _ y: UnsafePointer<Float>,
        _ count: Int
    ) -> Float {
        var (one, two, three, four) = (Vector.zero, Vector.zero, Vector.zero, Vector.zero)
        var at = 0
        while at &+ 32 <= count {
            one += load(x + at) * load(y + at)
            two += load(x + at + 8) * load(y + at + 8)
            three += load(x + at + 16) * load(y + at + 16)
            four += load(x + at + 24) * load(y + at + 24)
            at &+= 32
        }
        while at &+ 8 <= count {
            one += load(x + at) * load(y + at)
            at &+= 8
        }
        var sum = ((one + two) + (three + four)).sum()
        while at < count {
            sum += x[at] * y[at]
            at &+= 1
        }
        return sum
    }

    /// Σ w · x for four vectors x, each `stride` values behind the one before.
    static func dot4(
        _ w: UnsafePointer<Float>,
        _ x: UnsafePointer<Float>,
        _ stride: Int,
        _ count: Int
    ) -> SIMD4<Float> {
        var (one, two, three, four) = (Vector.zero, Vector.zero, Vector.zero, Vector.zero)
        let (second, third, fourth) = (x + stride, x + 2 * stride, x + 3 * stride)
        var at = 0
        while at &+ 8 <= count {
            let weights = load(w + at)
            one += weights * load(x + at)
            two += weights * load(second + at)
            three += weights * load(third + at)
            four += weights * load(fourth + at)
            at &+= 8
        }
        var sums = SIMD4(one.sum(), two.sum(), three.sum(), four.sum())
        while at < count {
            sums += w[at] * SIMD4(x[at], second[at], third[at], fourth[at])
            at &+= 1
        }
        return sums
    }

    /// out += factor · x
    static func add(
        _ x: UnsafePointer<Float>,
        times factor: Float,
        to out: UnsafeMutablePointer<Float>,
        _ count: Int
    ) {
        var at = 0
        while at &+ 8 <= count {
            store(load(out + at) + load(x + at) * factor, out + at)
            at &+= 8
        }
        while at < count {
            out[at] += x[at] * factor
            at &+= 1
        }
    }

    /// out = x · weight / √(mean of x² + ε)
    static func normalize(
        _ x: UnsafePointer<Float>,
        _ weight: UnsafePointer<Float>,
        _ epsilon: Float,
        _ out: UnsafeMutablePointer<Float>,
        _ count: Int
    ) {
        let scale = 1 / (dot(x, x, count) / Float(count) + epsilon).squareRoot()
        for index in 0..<count { out[index] = x[index] * scale * weight[index] }
    }

    /// Turns scores into probabilities.
    static func softmax(_ scores: UnsafeMutablePointer<Float>, _ count: Int) {
        var most = -Float.infinity
        for index in 0..<count { most = max(most, scores[index]) }
        var sum: Float = 0
        for index in 0..<count {
            let value = exp(scores[index] - most)
            scores[index] = value
            sum += value
        }
        let scale = 1 / sum
        for index in 0..<count { scores[index] *= scale }
    }

    /// gate = activation(gate) · up
    static func gate(
        _ activation: ModelConfiguration.Activation,
        _ gate: UnsafeMutablePointer<Float>,
        _ up: UnsafePointer<Float>,
        _ count: Int
    ) {
        switch activation {
        case .silu:
            for index in 0..<count {
                let x = gate[index]
                gate[index] = x / (1 + exp(-x)) * up[index]
            }
        case .gelu:
            for index in 0..<count {
                let x = gate[index]
                gate[index] = x * (1 + erf(x * 0.707_106_77)) / 2 * up[index]
            }
        case .geluTanh:
            for index in 0..<count {
                let x = gate[index]
                let inner = 0.797_884_6 * (x + 0.044715 * x * x * x)
                gate[index] = 0.5 * x * (1 + tanh(inner)) * up[index]
            }
        }
    }

    /// x = cap · tanh(x / cap)
    static func cap(_ x: UnsafeMutablePointer<Float>, _ count: Int, at cap: Float) {
        for index in 0..<count { x[index] = cap * tanh(x[index] / cap) }
    }
}
