import MLX
import MLXQuantFormats

@testable import MLXQuantMLX

/// Does what the packed kernels say they do, on a processor: weights decoded by MLXQuantFormats, sums
/// in float32. It takes a call as MLX would: by the kernel's name and inputs alone.
struct KnownKernels {
    /// The calls' names, in order.
    private(set) var calls: [String] = []

    /// The result of a call.
    mutating func run(_ call: KernelCall) throws -> [MLXArray] {
        calls.append(call.name)
        let words = call.name.split(separator: "_")
        let inputs = Dictionary(uniqueKeysWithValues: zip(call.inputNames, call.inputs))
        guard words[0] == "mlxquant", let wire = inputs["wire"],
            let format = KernelSource.formats.first(where: {
                call.name.contains("_\($0.lowercased())_\(call.outputDTypes[0])")
            }).flatMap({ WeightFormat(named: $0) })
        else { throw Unknown(name: call.name) }
        let shape = call.outputShapes[0]
        let weights = try decoded(wire, format)
        let columns = wire.shape[wire.ndim - 1] / format.blockBytes * format.blockSize
        func row(_ index: Int) -> ArraySlice<Float> {
            weights[(index * columns)..<((index + 1) * columns)]
        }
        let values: [Float]
        if call.name.hasPrefix("mlxquant_dequantize_rows"), let ids = inputs["ids"] {
            let ids = ids.doubles.prefix(shape[0]).map { Int($0) }
            values = ids.flatMap { $0 < wire.shape[0] ? Array(row($0)) : nan(columns) }
        } else if call.name.hasPrefix("mlxquant_dequantize") {
            values = weights
        } else {
            guard let x = inputs["x"]?.doubles else { throw Unknown(name: call.name) }
            let ids = inputs["ids"]?.doubles.map { Int($0) }
            let rows = shape[1]
            let matrices = wire.ndim == 3 ? wire.shape[0] : 1
            let factors = x.map { Float($0) }
            // tiles are of numbers of x's type
            let terms = words.contains("matmul") ? rounded(weights, call.outputDTypes[0]) : weights
            values = (0..<shape[0]).flatMap { m in
                let id = ids?[m] ?? 0
                guard id < matrices else { return nan(rows) }
                return products(factors, m, terms, id * rows, rows, columns)
            }
        }
        return [MLXArray(values, shape).asType(call.outputDTypes[0])]
    }

    /// Of a row of x with rows of weights, added up in float32 one after the other.
    private func products(
        _ x: [Float],
        _ m: Int,
        _ weights: [Float],
        _ first: Int,
        _ rows: Int,
        _ columns: Int
    ) -> [Float] {
        x.withUnsafeBufferPointer { x in
            weights.withUnsafeBufferPointer { weights in
                (0..<rows).map { n in
                    var (sum, place): (Float, Int) = (0, 0)
                    let (left, right) = (m * columns, (first + n) * columns)
                    while place < columns {
                        sum += x[left + place] * weights[right + place]
                        place += 1
                    }
                    return sum
                }
            }
        }
    }

    private func rounded(_ numbers: [Float], _ type: DType) -> [Float] {
        MLXArray(numbers).asType(type).asType(.float32).asArray(Float.self)
    }

    struct Unknown: Error {
        let name: String
    }

    private func nan(_ count: Int) -> [Float] {
        [Float](repeating: .nan, count: count)
    }

    /// float32 of all blocks.
    private func decoded(_ wire: MLXArray, _ format: WeightFormat) throws -> [Float] {
        let blocks = wire.size / format.blockBytes
        let out = UnsafeMutableBufferPointer<Float>.allocate(capacity: blocks * format.blockSize)
        defer { out.deallocate() }
        let bytes = UnsafeRawBufferPointer(start: wire.base, count: wire.size)
        try format.decode([bytes], blocks: blocks, into: out)
        return Array(out)
    }
}
