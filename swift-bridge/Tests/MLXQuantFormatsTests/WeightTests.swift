import Testing

@testable import MLXQuantFormats

/// A weight of 3 rows of 64 weights in Q8_0, whose codes count up.
private func weight() throws -> Weight {
    var bytes: [UInt8] = []
    for block in 0..<6 {
        bytes += [0x00, 0x3C] + (0..<32).map { UInt8(32 * (block % 2) + $0 + block / 2) }
    }
    let file = try MappedFile(copying: bytes, as: "w.bin")
    return Weight(
        name: "w",
        shape: [3, 64],
        format: WeightFormat(.q8_0),
        parts: [FileRegion(file, 0..<bytes.count)]
    )
}

@Suite("Weights")
struct WeightTests {
    @Test("rows, into arrays and into buffers")
    func rows() throws {
        let weight = try weight()
        #expect((weight.rows, weight.columns, weight.count, weight.bytes) == (3, 64, 192, 204))
        let all = (0..<3).flatMap { row in (0..<64).map { Float($0 + row) } }
        #expect(try weight.floats() == all)
        for range in [0..<1, 1..<3, 2..<3, 1..<1, 3..<3] {
            let wanted = Array(all[(64 * range.lowerBound)..<(64 * range.upperBound)])
            #expect(try weight.floats(rows: range) == wanted)
            #expect(try weight.halfBits(rows: range).map { float(half: $0) } == wanted)
            var room = [Float](repeating: -1, count: wanted.count + 1)
            try room.withUnsafeMutableBufferPointer { try weight.decode(rows: range, into: $0) }
            #expect(room == wanted + [-1])
        }
    }

    #if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
        @Test("float16 is what the system's rounding gives")
        func float16() throws {
            let values = splitMix(9, 1 << 18).withUnsafeBytes {
                Array($0.bindMemory(to: Float.self))
            }
            let near = (0..<(1 << 16)).flatMap { code -> [Float] in
                let value = Float(Float16(bitPattern: UInt16(code)))
                return [value, value.nextUp, value.nextDown, value * 1.0005]
            }
            for value in values + near where !value.isNaN {
                #expect(halfBits(value) == Float16(value).bitPattern)
            }
            for code in UInt16.min...UInt16.max where !Float16(bitPattern: code).isNaN {
                #expect(float(half: code) == Float(Float16(bitPattern: code)))
            }
            #expect(try weight().halves(rows: 1..<2).last == 64)
        }
    #endif

    @Test("what cannot be had is refused")
    func refusals() throws {
        let weight = try weight()
        for range in [-1..<1, 0..<4, 4..<4, Int.max..<Int.max] {
            let error = #expect(throws: FormatError.self) { try weight.floats(rows: range) }
            #expect(error?.kind == .request)
            #expect(error?.field == "tensor 'w'")
        }
        var small = [Float](repeating: 0, count: 63)
        #expect(throws: FormatError.self) {
            try small.withUnsafeMutableBufferPointer { try weight.decode(rows: 0..<1, into: $0) }
        }
        let bytes = [UInt8](repeating: 0, count: 67)
        bytes.withUnsafeBytes { wire in
            small.withUnsafeMutableBufferPointer { out in
                for (parts, blocks) in [([wire], 2), ([wire], Int.max), ([wire], -1), ([], 1)] {
                    #expect(throws: FormatError.self) {
                        try WeightFormat(.q8_0).decode(parts, blocks: blocks, into: out)
                    }
                }
            }
        }
    }

    @Test("types that are no numbers are named, and not decoded")
    func notDecodable() throws {
        let file = try MappedFile(copying: [1, 2, 3, 4], as: "w.bin")
        for type in [ElementType.u32, .f8e4m3, .f4] {
            let shape = [32 / type.bits]
            let tensor = StoredTensor(
                name: "x",
                type: type,
                shape: shape,
                region: FileRegion(file, 0..<4)
            )
            let weight = Weight(tensor)
            #expect(!weight.format.isDecodable)
            #expect(weight.format.name == type.rawValue)
            #expect(throws: FormatError.self) { try weight.floats() }
        }
    }

    @Test(
        "weights without weights, of any size",
        arguments: [[5, 0], [0, 5], [0], [1 << 62, 1 << 62, 0]]
    )
    func empty(_ shape: [Int]) throws {
        let entry = #"{"a":{"dtype":"F32","shape":\#(shape),"data_offsets":[0,0]}}"#
        let length = (0..<8).map { UInt8(truncatingIfNeeded: entry.utf8.count >> (8 * $0)) }
        let file = try MappedFile(copying: length + Array(entry.utf8), as: "m")
        let weight = Weight(try SafetensorsFile(file).tensors[0])
        #expect(weight.shape == shape)
        #expect(weight.count == 0)
        #expect(try weight.floats() == [])
    }

    @Test("names")
    func names() throws {
        #expect(WeightFormat(named: "affine3-g128", floats: .f16)?.bitsPerWeight == 3.25)
        #expect(WeightFormat(named: "Q4_K")?.bitsPerWeight == 4.5)
        #expect(WeightFormat(named: "mxfp4")?.parts.map(\.suffix) == ["weight", "scales"])
        #expect(WeightFormat(named: "MXFP4")?.parts.count == 1)
        for name in ["q4_k", "affine7-g64", "affine4-g65", "", "Q4"] {
            #expect(WeightFormat(named: name) == nil)
        }
    }
}
