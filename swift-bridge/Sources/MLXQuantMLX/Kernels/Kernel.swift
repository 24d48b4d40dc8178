/// One function template of a .metal file, as a kernel of MLX: `kernels/source.py` in Swift.
struct Kernel: Hashable, Sendable {
    /// Part of the kernel's name.
    let name: String
    /// Where the template is: `<file>.metal`.
    let file: String
    /// Names of the input arrays, in order; the output is `out`.
    let inputs: [String]
    /// The call, with FORMAT for the format's struct.
    let body: String

    /// The body for a format.
    func call(_ format: String) -> String {
        let pieces = body.split(separator: "FORMAT", omittingEmptySubsequences: false)
        return pieces.joined(separator: format)
    }

    /// wire uint8 [n, bytes] → out [n, k]; grid (parts, blocks, 1).
    static let dequantize = Kernel(
        name: "dequantize",
        file: "dequantize",
        inputs: ["wire"],
        body: "dequantize<FORMAT>(wire, out, thread_position_in_grid);"
    )

    /// wire uint8 [n, bytes], ids uint32 [m] → out [m, k]; grid (parts, blocks of a row, m).
    static let dequantizeRows = Kernel(
        name: "dequantize_rows",
        file: "dequantize",
        inputs: ["wire", "ids"],
        body: "dequantize_row<FORMAT>(wire, wire_shape[0], wire_shape[1], "
            + "ids[thread_position_in_grid.z], out, thread_position_in_grid);"
    )

    /// x [m, k], wire uint8 [n, bytes] → out [m, n], m up to `rows`.
    static func matvec(rows: Int, height: Int, split: Int) -> Kernel {
        let name = "\(rows > 1 ? "matvec_rows" : "matvec")_\(rows)x\(height)"
        let group = "threadgroup_position_in_grid.x"
        let product = product(0, 1)
        guard split > 1 else {
            let body = "matvec<FORMAT, \(rows), \(height)>(\(product), \(group), \(lane));"
            return Kernel(name: name, file: "matvec", inputs: ["x", "wire"], body: body)
        }
        let body = """
            threadgroup float partial[\(split * height * rows)];
            matvec_split<FORMAT, \(rows), \(height), \(split)>(\(product), partial, \(group), \
            \(lane));
            """
        return Kernel(
            name: "\(name)_split\(split)",
            file: "matvec",
            inputs: ["x", "wire"],
            body: body
        )
    }

    /// The same for any m, of numbers of `size` bytes.
    static func matmul(height: Int, width: Int, size: Int) -> Kernel {
        let body = """
            threadgroup float4 memory[Tiles<\(height), \(width), \(size)>::quads];
            matmul<FORMAT, \(height), \(width)>(\(product(0, 1)), memory, \
            threadgroup_position_in_grid, \(thread));
            """
        return Kernel(
            name: "matmul_\(height)x\(width)",
            file: "matmul",
            inputs: ["x", "wire"],
            body: body
        )
    }

    /// x [p, k], ids uint32 [p], wire uint8 [e, n, bytes] → out [p, n].
    static func gatherMatvec(height: Int, split: Int) -> Kernel {
        let name = "gather_matvec_1x\(height)"
        let arguments = "\(product(1, 2)), ids, wire_shape[0]"
        let places = "threadgroup_position_in_grid, \(lane)"
        guard split > 1 else {
            let body = "gather_matvec<FORMAT, \(height)>(\(arguments), \(places));"
            return Kernel(name: name, file: "gather", inputs: ["x", "ids", "wire"], body: body)
        }
        let body = """
            threadgroup float partial[\(split * height)];
            gather_matvec_split<FORMAT, \(height), \(split)>(\(arguments), partial, \(places));
            """
        return Kernel(
            name: "\(name)_split\(split)",
            file: "gather",
            inputs: ["x", "ids", "wire"],
            body: body
        )
    }

    /// The same for many rows in the order of ids.
    static func gatherMatmul(height: Int, width: Int, size: Int) -> Kernel {
        let body = """
            threadgroup float4 memory[Tiles<\(height), \(width), \(size)>::quads];
            gather_matmul<FORMAT, \(height), \(width)>(\(product(1, 2)), ids, wire_shape[0], \
            memory, threadgroup_position_in_grid, \(thread));
            """
        return Kernel(
            name: "gather_matmul_\(height)x\(width)",
            file: "gather",
            inputs: ["x", "ids", "wire"],
            body: body
        )
    }

    /// What a product is of; `n` and `bytes` are axes of wire.
    private static func product(_ n: Int, _ bytes: Int) -> String {
        "product_of(x, x_shape[0], x_shape[1], wire, wire_shape[\(n)], wire_shape[\(bytes)], out)"
    }

    private static let lane = "simdgroup_index_in_threadgroup, thread_index_in_simdgroup"
    private static let thread = "thread_index_in_threadgroup, simdgroup_index_in_threadgroup"
}
