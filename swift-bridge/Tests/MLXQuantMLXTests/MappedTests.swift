import MLX
import MLXQuantFormats
import Testing

@testable import MLXQuantMLX

/// Arrays over mapped files: the file's own bytes, in whole pages, for as long as they are in use.
struct MappedTests {
    private static let page = MappedBytes.pageSize

    /// A file with a tensor of one page at a page, and small ones behind it.
    private static func file() throws -> (TemporaryFolder, SafetensorsFile) {
        let folder = try TemporaryFolder()
        let whole = (0..<page).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let floats = (0..<6).flatMap { index -> [UInt8] in
            let bits = (Float(index) / 2).bitPattern
            return (0..<4).map { UInt8(truncatingIfNeeded: bits >> (8 * $0)) }
        }
        try folder.write(
            "model.safetensors",
            tensors: [
                ("whole", "U8", [page / 8, 8], whole),
                ("floats", "F32", [2, 3], floats),
                ("odd", "U8", [3], [7, 8, 9]),
                ("unaligned", "F32", [], [0, 0, 0x80, 0x3F]),
                ("empty", "F16", [0, 4], []),
            ],
            align: page
        )
        return (folder, try SafetensorsFile("\(folder.path)/model.safetensors"))
    }

    private static func array(_ file: SafetensorsFile, _ name: String) throws -> MLXArray {
        let tensor = try #require(file[name])
        return try MLXArray.mapped(tensor.region, shape: tensor.shape, type: tensor.type)
    }

    private static func bytes(_ file: SafetensorsFile, _ name: String) throws -> MappedBytes {
        let tensor = try #require(file[name])
        return try #require(MappedBytes(tensor.region))
    }

    @Test func arraysAreTheFilesOwnBytes() throws {
        let (_, file) = try Self.file()
        for tensor in file.tensors where tensor.region.count > 0 {
            let array = try Self.array(file, tensor.name)
            let address = tensor.region.withUnsafeBytes { Int(bitPattern: $0.baseAddress) }
            #expect(Int(bitPattern: array.base) == address, "\(tensor.name)")
            #expect(array.shape == tensor.shape)
        }
        #expect(try Self.array(file, "floats").asArray(Float.self) == [0, 0.5, 1, 1.5, 2, 2.5])
        #expect(try Self.array(file, "odd").asArray(UInt8.self) == [7, 8, 9])
        #expect(try Self.array(file, "unaligned").asArray(Float.self) == [1])
        #expect(try Self.array(file, "empty").shape == [0, 4])
    }

    /// What MLX is given begins at a page and is whole pages, unless its elements do not stand at
    /// multiples of their size: then MLX copies.
    @Test func windowsAreWholePages() throws {
        let (_, file) = try Self.file()
        for name in ["whole", "floats", "odd"] {
            let array = try Self.array(file, name)
            #expect(Int(bitPattern: array.storage.base) % Self.page == 0, "\(name)")
        }
        let whole = try Self.bytes(file, "whole")
        #expect(whole.isWhole)
        let floats = try Self.bytes(file, "floats")
        #expect(!floats.isWhole && floats.window == Self.page && floats.skip == 0)
        let odd = try Self.bytes(file, "odd")
        #expect(odd.skip == 24 && odd.count == 3 && odd.window == Self.page)
        let alone = try Self.array(file, "unaligned")
        #expect(alone.offset == 0 && Int(bitPattern: alone.storage.base) % 4 == 3)
    }

    /// A window of smaller pages than the system's, across one of their boundaries.
    @Test func windowsOfOtherPages() throws {
        let (_, file) = try Self.file()
        let region = try #require(file["floats"]).region
        let bytes = try #require(MappedBytes(region, page: 16))
        #expect(bytes.skip == 0 && bytes.window == 32 && bytes.count == 24)
        let empty = try #require(file["empty"])
        #expect(MappedBytes(empty.region) == nil)
    }

    @Test func theFileStaysMappedAsLongAsAnArray() throws {
        weak var mapped: MappedFile?
        var array: MLXArray?
        do {
            let (_, file) = try Self.file()
            mapped = file.file
            array = try Self.array(file, "floats")
        }
        #expect(mapped != nil && array?.asArray(Float.self).last == 2.5)
        array = nil
        #expect(mapped == nil)
    }

    @Test func refusals() throws {
        let (_, file) = try Self.file()
        let region = try #require(file["floats"]).region
        for (shape, type) in [
            ([2, 4], ElementType.f32), ([3], .i32), ([Int.max, 2], .f32), ([-2, -3], .f32),
            ([1 << 31, 1 << 31, 1 << 31], .f32), ([48], .f4),
        ] {
            #expect(throws: FormatError.self) {
                try MLXArray.mapped(region, shape: shape, type: type)
            }
        }
    }
}
