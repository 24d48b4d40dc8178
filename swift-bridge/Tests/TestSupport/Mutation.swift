import Foundation

/// A stream of numbers from a seed.
public struct RandomStream: Sendable {
    private var state: UInt64

    /// The stream of a seed.
    public init(_ seed: UInt64) {
        state = seed
    }

    /// The next number.
    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Below `limit`, which is not 0.
    public mutating func below(_ limit: Int) -> Int {
        Int(truncatingIfNeeded: next() % UInt64(limit))
    }
}

/// Numbers at which things go wrong.
private let telling: [UInt64] = [
    0, 1, 2, 3, 7, 8, 31, 32, 33, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32,
    1 << 61, (1 << 63) - 1, 1 << 63, .max, .max - 31,
]
/// What headers are made of.
private let words = [
    "{", "}", "[", "]", "\"", ",", ":", "null", "true", "-1", "1e999", "\\u0000", "\\ud800", "F32",
    "U32", "F4", "bits", "mode", "mxfp4", "group_size", "../x", "9223372036854775808", "GGUF",
].map { Array($0.utf8) }

/// One to eight small changes, most of them among the first `near` bytes.
public func mutated(_ bytes: [UInt8], near: Int, _ random: inout RandomStream) -> [UInt8] {
    var bytes = bytes
    for _ in 0...random.below(8) {
        let limit = random.below(8) == 0 ? bytes.count : min(bytes.count, near)
        let at = limit == 0 ? 0 : random.below(limit)
        switch random.below(7) {
        case 0 where !bytes.isEmpty: bytes[at] ^= 1 << UInt8(random.below(8))
        case 1 where !bytes.isEmpty: bytes[at] = UInt8(truncatingIfNeeded: random.next())
        case 2, 3:
            let number = telling[random.below(telling.count)]
            let size = [1, 2, 4, 8][random.below(4)]
            let raw = (0..<size).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) }
            bytes.replaceSubrange(at..<min(at + size, bytes.count), with: raw)
        case 4: bytes.insert(contentsOf: words[random.below(words.count)], at: at)
        case 5:
            let end = min(bytes.count, at + random.below(16))
            bytes.removeSubrange(at..<end)
        default:
            let end = min(bytes.count, at + random.below(64))
            bytes.insert(contentsOf: bytes[at..<end], at: random.below(bytes.count + 1))
        }
    }
    if random.below(16) == 0 {
        bytes.removeLast(random.below(bytes.count + 1))
    }
    return bytes
}

extension RandomStream {
    /// One of these, which are not none.
    public mutating func pick<Item>(_ items: [Item]) -> Item { items[below(items.count)] }

    /// True once in `times`.
    public mutating func once(in times: Int) -> Bool { below(times) == 0 }
}

/// How many times longer a search for failures runs than in the tests, by the environment's
/// `MLXQUANT_FUZZ`; then the numbers are not the same ones each time.
public let fuzzFactor = ProcessInfo.processInfo.environment["MLXQUANT_FUZZ"].flatMap(Int.init) ?? 1

/// The numbers of a search, the same ones in every test run.
public func fuzzNumbers(_ seed: UInt64) -> RandomStream {
    RandomStream(fuzzFactor == 1 ? seed : UInt64.random(in: 0...UInt64.max))
}
