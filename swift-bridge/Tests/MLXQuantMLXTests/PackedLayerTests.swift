import MLX
import MLXNN
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// What `body` gives on kernels that do what they say, and which kernels it called.
func run<R>(_ body: () throws -> R) rethrows -> (R, [String]) {
    var kernels = KnownKernels()
    let result = try MLXFast.withKernels({ try kernels.run($0) }, body)
    return (result, kernels.calls)
}

/// Packed layers on kernels that do what they say: what they ask for, and what they make of it.
struct PackedLayerTests {
    /// Blocks of a format whose scales are finite: Q8_0 with scale 1 / 16.
    static func q8(rows: Int, columns: Int) throws -> (MLXArray, WeightFormat, [Float]) {
        let format = try #require(WeightFormat(named: "Q8_0"))
        var wire: [UInt8] = []
        var weights: [Float] = []
        for block in 0..<(rows * columns / 32) {
            wire += [0x00, 0x2C]
            for place in 0..<32 {
                let code = Int8(truncatingIfNeeded: block &* 37 &+ place &* 11)
                wire.append(UInt8(bitPattern: code))
                weights.append(Float(code) / 16)
            }
        }
        return (MLXArray(wire, [rows, columns / 32 * 34]), format, weights)
    }

    /// The product of a row of x with a row of weights; exact, for numbers as small as these.
    static func sum(
        _ x: [Float],
        _ m: Int,
        _ weights: [Float],
        _ n: Int,
        columns: Int
    ) -> Float {
        var sum: Float = 0
        for column in 0..<columns {
            sum += x[m * columns + column] * weights[n * columns + column]
        }
        return sum
    }

    @Test(arguments: [1, 5, 20])
    func linear(rows: Int) throws {
        let (wire, format, weights) = try Self.q8(rows: 6, columns: 64)
        let bias = MLXArray((0..<6).map { Float($0) * 100 }, [6])
        let layer = try PackedLinear(weight: wire, format: format, bias: bias)
        #expect(layer.shape == (6, 64))
        let numbers = (0..<(rows * 64)).map { Float($0 % 7) - 3 }
        let x = MLXArray(numbers, [rows, 1, 64])
        let (y, calls) = run { layer(x) }
        #expect(y.shape == [rows, 1, 6] && y.dtype == .float32)
        var expected: [Float] = []
        for m in 0..<rows {
            for n in 0..<6 {
                expected.append(Float(n) * 100 + Self.sum(numbers, m, weights, n, columns: 64))
            }
        }
        #expect(y.asArray(Float.self) == expected)
        let kernel = [1: "matvec_1x4", 5: "matvec_rows_8x2", 20: "matmul_32x64"][rows]!
        #expect(calls == ["mlxquant_\(kernel)_q8_0_float32"])
        let half = run { layer(x.asType(.float16)) }.0
        #expect(half.dtype == .float16)
    }

    @Test func noRowsNeedNoKernel() throws {
        let (wire, format, _) = try Self.q8(rows: 6, columns: 64)
        let (y, calls) = run {
            try? PackedLinear(weight: wire, format: format)(
                MLXArray.zeros([0, 64], dtype: .float16)
            )
        }
        #expect(y?.shape == [0, 6] && calls.isEmpty)
    }

    @Test func embedding() throws {
        let (wire, format, weights) = try Self.q8(rows: 9, columns: 32)
        let layer = try PackedEmbedding(weight: wire, format: format, dtype: .float32)
        let ids = MLXArray([UInt32(8), 0, 3], [1, 3])
        let (rows, calls) = run { layer(ids) }
        #expect(rows.shape == [1, 3, 32] && calls == ["mlxquant_dequantize_rows_q8_0_float32"])
        let expected = [8, 0, 3].flatMap { (row: Int) in weights[(row * 32)..<(row * 32 + 32)] }
        #expect(rows.asArray(Float.self) == expected)
        let (scores, _) = run { layer.asLinear(rows) }
        #expect(scores.shape == [1, 3, 9])
    }

    /// Ids are filled up to eight, beyond which MLX puts them in device memory.
    @Test func idsComeInDeviceMemory() throws {
        let (wire, format, _) = try Self.q8(rows: 9, columns: 32)
        var lengths: [Int] = []
        let layer = try PackedEmbedding(weight: wire, format: format, dtype: .float32)
        for count in [1, 7, 8, 9] {
            let ids = MLXArray([UInt32](repeating: 1, count: count))
            _ = MLXFast.withKernels({ call in
                lengths.append(call.inputs[1].size)
                return [MLXArray.zeros(call.outputShapes[0], dtype: .float32)]
            }) { layer(ids) }
        }
        #expect(lengths == [8, 8, 8, 9])
    }

    /// As of mlx-swift's quantized layers.
    @Test func blocksStayFrozen() throws {
        let (wire, format, _) = try Self.q8(rows: 6, columns: 64)
        let experts = try PackedSwitchLinear(weight: wire.reshaped([2, 3, 68]), format: format)
        for layer in [
            try PackedLinear(weight: wire, format: format),
            try PackedEmbedding(weight: wire, format: format), experts,
        ] {
            try layer.unfreeze(recursive: true, keys: nil, strict: false)
            #expect(layer.events == ["freeze", "unfreeze", "freeze"])
        }
    }

    @Test func refusals() throws {
        let (wire, format, _) = try Self.q8(rows: 6, columns: 64)
        let none = try #require(WeightFormat(named: "Q8_K"))
        #expect(throws: FormatError.self) { try PackedLinear(weight: wire, format: none) }
        let floats = MLXArray([Float(1)], [1, 1])
        #expect(throws: FormatError.self) { try PackedLinear(weight: floats, format: format) }
        #expect(throws: FormatError.self) {
            try PackedEmbedding(weight: wire, format: format, dtype: .float64)
        }
        #expect(throws: FormatError.self) {
            try PackedKernels.product(MLXArray.zeros([1, 32], dtype: .float16), wire, format)
        }
    }
}
