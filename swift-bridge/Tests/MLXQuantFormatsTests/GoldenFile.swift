import Foundation
import Testing

@testable import MLXQuantFormats

/// What Python wrote for these tests: swift-bridge/Tests/Golden.
func goldenFile(_ name: String, from source: String = #filePath) throws -> [UInt8] {
    let tests = URL(fileURLWithPath: source).deletingLastPathComponent().deletingLastPathComponent()
    return Array(try Data(contentsOf: tests.appendingPathComponent("Golden/\(name)")))
}

/// Reads little-endian numbers and texts from bytes, one after the other.
struct Reader {
    let bytes: [UInt8]
    var at = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func raw(_ count: Int) -> [UInt8] {
        defer { at += count }
        return Array(bytes[at..<(at + count)])
    }

    mutating func number<Number: FixedWidthInteger>(_ type: Number.Type) -> Int {
        let size = MemoryLayout<Number>.size
        return raw(size).reversed().reduce(0) { $0 << 8 | Int($1) }
    }

    mutating func text() -> String {
        let count = number(UInt8.self)
        return String(decoding: raw(count), as: UTF8.self)
    }
}

/// The bytes of SplitMix64 from a seed.
func splitMix(_ seed: UInt64, _ count: Int) -> [UInt8] {
    var state = seed
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        z ^= z >> 31
        for byte in 0..<8 {
            bytes.append(UInt8(truncatingIfNeeded: z >> UInt64(8 * byte)))
        }
    }
    return Array(bytes.prefix(count))
}
