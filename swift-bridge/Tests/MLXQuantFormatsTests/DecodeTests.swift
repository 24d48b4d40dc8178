import Testing

@testable import MLXQuantFormats

/// Rows that Python decoded.
struct Vector: CustomTestStringConvertible, Sendable {
    let name: String
    let rows: Int
    let columns: Int
    let wire: [[UInt8]]
    let floats: [UInt32]

    var testDescription: String { name }
}

/// Many blocks of any bytes, and the SHA-256 of what Python decoded.
struct Digest: CustomTestStringConvertible, Sendable {
    let name: String
    let seed: UInt64
    let blocks: Int
    let floats: String
    let halves: String

    var testDescription: String { name }
}

/// formats.bin; see tests/swift_package/golden.py.
private let golden: (vectors: [Vector], digests: [Digest]) = {
    guard let bytes = try? goldenFile("formats.bin") else { return ([], []) }
    var reader = Reader(bytes)
    guard reader.raw(8) == Array("MQGOLD1\0".utf8) else { return ([], []) }
    let vectors = (0..<reader.number(UInt32.self)).map { _ in
        let name = reader.text()
        let (rows, columns) = (reader.number(UInt32.self), reader.number(UInt32.self))
        let wire = (0..<reader.number(UInt8.self)).map { _ in
            let count = reader.number(UInt32.self)
            return reader.raw(count)
        }
        let floats = (0..<(rows * columns)).map { _ in UInt32(reader.number(UInt32.self)) }
        return Vector(name: name, rows: rows, columns: columns, wire: wire, floats: floats)
    }
    let digests = (0..<reader.number(UInt32.self)).map { _ in
        let name = reader.text()
        let (seed, blocks) = (UInt64(reader.number(UInt64.self)), reader.number(UInt32.self))
        let hashes = (0..<2).map { _ in
            reader.raw(32).map { hex(UInt32($0), digits: 2) }.joined()
        }
        return Digest(
            name: name,
            seed: seed,
            blocks: blocks,
            floats: hashes[0],
            halves: hashes[1]
        )
    }
    return (vectors, digests)
}()

/// The format under its name in the golden file.
func formatNamed(_ name: String) -> WeightFormat? {
    let pieces = name.split(separator: "/").map(String.init)
    guard pieces.count == 2 else { return WeightFormat(named: name) }
    return ElementType(rawValue: pieces[1]).flatMap { WeightFormat(named: pieces[0], floats: $0) }
}

/// Whether a format's floats are the file's own, NaN included.
private func isExact(_ name: String) -> Bool {
    ["F32", "F16", "BF16"].contains(name)
}

/// Every NaN the same one, but where the floats are the file's own.
private func canonical(_ values: [Float], _ name: String) -> [UInt32] {
    values.map { $0.isNaN && !isExact(name) ? 0x7FC0_0000 : $0.bitPattern }
}

private func decode(_ format: WeightFormat, _ wire: [[UInt8]], blocks: Int) throws -> [Float] {
    var out = [Float](repeating: 0, count: blocks * format.blockSize)
    try withBuffers(wire) { buffers in
        try out.withUnsafeMutableBufferPointer { out in
            try format.decode(buffers, blocks: blocks, into: out)
        }
    }
    return out
}

private func decodeHalves(_ format: WeightFormat, _ wire: [[UInt8]], blocks: Int) throws -> [UInt16]
{
    var out = [UInt16](repeating: 0, count: blocks * format.blockSize)
    try withBuffers(wire) { buffers in
        try out.withUnsafeMutableBufferPointer { out in
            try format.decode(buffers, blocks: blocks, intoHalfBits: out)
        }
    }
    return out
}

/// Copies of the parts, each of them before memory that nobody may read.
private func withBuffers(_ wire: [[UInt8]], _ body: ([UnsafeRawBufferPointer]) throws -> Void)
    throws
{
    let copies = try wire.map { try MappedFile(copying: $0, as: "part") }
    // the copies live to the end of the call, and their bytes as long as they
    try body(copies.map { copy in copy.withUnsafeBytes { $0 } })
    withExtendedLifetime(copies) {}
}

private func sha256<Number>(_ values: [Number]) -> String {
    var digest = SHA256Digest()
    values.withUnsafeBytes { digest.update($0) }
    return digest.hexadecimal()
}

@Suite("Decoding gives Python's bits")
struct DecodeTests {
    @Test("every format is there")
    func everyFormat() throws {
        let schemes = QuantizationScheme.Mode.allCases.flatMap(\.schemes)
        let types = GGMLType.allCases.filter { $0 != .q8_1 }
        #expect(golden.vectors.count == 3 * schemes.count + types.count)
        #expect(golden.digests.count == golden.vectors.count)
        for type in types {
            let found = WeightFormat(type)
            #expect(found.isDecodable)
            #expect(found.name == type.name)
            #expect(found.blockSize == type.blockSize)
            #expect(found.blockBytes == type.blockBytes)
        }
        #expect(!WeightFormat(.q8_1).isDecodable)
    }

    @Test("golden vectors", arguments: golden.vectors)
    func vectors(_ vector: Vector) throws {
        let format = try #require(formatNamed(vector.name))
        let blocks = vector.rows * vector.columns / format.blockSize
        let found = canonical(try decode(format, vector.wire, blocks: blocks), vector.name)
        let wrong = zip(found, vector.floats).enumerated().first { $1.0 != $1.1 }
        #expect(wrong == nil, "weight \(wrong?.offset ?? 0)")
        #expect(found.count == vector.floats.count)
    }

    @Test("any bytes", arguments: golden.digests)
    func digests(_ digest: Digest) throws {
        let format = try #require(formatNamed(digest.name))
        var wire = format.parts.enumerated().map { index, part in
            splitMix(digest.seed + UInt64(index), digest.blocks * part.blockBytes)
        }
        if digest.seed == 0 {  // every code there is
            wire = [(0..<65536).flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }]
        }
        let floats = try decode(format, wire, blocks: digest.blocks)
        #expect(sha256(canonical(floats, digest.name)) == digest.floats)
        let halves = try decodeHalves(format, wire, blocks: digest.blocks)
        #expect(sha256(halves.map { $0 & 0x7FFF > 0x7C00 ? 0x7E00 : $0 }) == digest.halves)
    }
}
