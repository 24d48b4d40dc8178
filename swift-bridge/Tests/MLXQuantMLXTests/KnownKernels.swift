import MLX
import MLXQuantFormats

@testable import MLXQuantMLX

/// Does what the packed kernels say they do, on a processor: weights decoded by MLXQuantFormats, sums
/// in Double. It takes a call as MLX would: by the kernel's name and inputs alone.
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
            values = (0..<shape[0]).flatMap { m in
                (0..<rows).map { n in
                    let first = (ids?[m] ?? 0) * rows
                    let products = zip(x[(m * columns)...], row(first + n)).map { $0 * Double($1) }
                    return Float(products.reduce(0, +))
                }
            }
        }
        return [MLXArray(values, shape).asType(call.outputDTypes[0])]
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
