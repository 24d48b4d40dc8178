import Foundation

/// A folder that is gone when nobody has it any more.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent(
            "mlxquant-\(UUID().uuidString)"
        )
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        path = url.path
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    func write(_ name: String, _ bytes: [UInt8]) throws {
        try Data(bytes).write(to: URL(fileURLWithPath: path).appendingPathComponent(name))
    }

    func write(_ name: String, _ text: String) throws {
        try write(name, Array(text.utf8))
    }

    /// Writes a safetensors file of tensors with name, element type, shape and bytes, in order; the
    /// first one begins at a multiple of `align`.
    func write(
        _ name: String,
        tensors: [(name: String, type: String, shape: [Int], bytes: [UInt8])],
        align: Int = 8
    ) throws {
        var (entries, data): ([String], [UInt8]) = (["\"__metadata__\":{\"format\":\"mlx\"}"], [])
        for tensor in tensors {
            let range = "[\(data.count),\(data.count + tensor.bytes.count)]"
            entries.append(
                "\"\(tensor.name)\":{\"dtype\":\"\(tensor.type)\",\"shape\":\(tensor.shape),"
                    + "\"data_offsets\":\(range)}"
            )
            data += tensor.bytes
        }
        var header = Array("{\(entries.joined(separator: ","))}".utf8)
        while (8 + header.count) % align != 0 {
            header.append(UInt8(ascii: " "))
        }
        let length = (0..<8).map { UInt8(truncatingIfNeeded: header.count >> (8 * $0)) }
        try write(name, length + header + data)
    }
}
