#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256 of bytes that come piece by piece.
///
/// CryptoKit's on Apple's systems; elsewhere the algorithm of FIPS 180-4.
package struct SHA256Digest {
    #if canImport(CryptoKit)
        private var state = SHA256()
    #else
        private var state = PlainSHA256()
    #endif

    /// The digest of nothing yet.
    package init() {}

    /// Takes the next bytes.
    ///
    /// - Parameter bytes: of any number.
    package mutating func update(_ bytes: UnsafeRawBufferPointer) {
        #if canImport(CryptoKit)
            state.update(bufferPointer: bytes)
        #else
            state.update(bytes)
        #endif
    }

    /// 64 lower-case hexadecimal digits for all bytes so far.
    package func hexadecimal() -> String {
        var copy = state
        #if canImport(CryptoKit)
            return copy.finalize().map { hex(UInt32($0), digits: 2) }.joined()
        #else
            return copy.finalize().map { hex($0, digits: 8) }.joined()
        #endif
    }

    /// The SHA-256 of a file, read in pieces.
    ///
    /// - Parameter path: of the file.
    /// - Returns: 64 lower-case hexadecimal digits.
    /// - Throws: ``FormatError`` if it cannot be read.
    package static func of(file path: String) throws(FormatError) -> String {
        var digest = SHA256Digest()
        try readPieces(of: path) { digest.update($0) }
        return digest.hexadecimal()
    }
}

/// FIPS 180-4, section 6.2; also compiled where CryptoKit is used, for its tests.
struct PlainSHA256 {
    private var hash = SIMD8<UInt32>(
        0x6A09_E667,
        0xBB67_AE85,
        0x3C6E_F372,
        0xA54F_F53A,
        0x510E_527F,
        0x9B05_688C,
        0x1F83_D9AB,
        0x5BE0_CD19
    )
    private var rest: [UInt8] = []
    private var count: UInt64 = 0

    private static let constants: [UInt32] = [
        0x428A_2F98, 0x7137_4491, 0xB5C0_FBCF, 0xE9B5_DBA5, 0x3956_C25B, 0x59F1_11F1,
        0x923F_82A4, 0xAB1C_5ED5, 0xD807_AA98, 0x1283_5B01, 0x2431_85BE, 0x550C_7DC3,
        0x72BE_5D74, 0x80DE_B1FE, 0x9BDC_06A7, 0xC19B_F174, 0xE49B_69C1, 0xEFBE_4786,
        0x0FC1_9DC6, 0x240C_A1CC, 0x2DE9_2C6F, 0x4A74_84AA, 0x5CB0_A9DC, 0x76F9_88DA,
        0x983E_5152, 0xA831_C66D, 0xB003_27C8, 0xBF59_7FC7, 0xC6E0_0BF3, 0xD5A7_9147,
        0x06CA_6351, 0x1429_2967, 0x27B7_0A85, 0x2E1B_2138, 0x4D2C_6DFC, 0x5338_0D13,
        0x650A_7354, 0x766A_0ABB, 0x81C2_C92E, 0x9272_2C85, 0xA2BF_E8A1, 0xA81A_664B,
        0xC24B_8B70, 0xC76C_51A3, 0xD192_E819, 0xD699_0624, 0xF40E_3585, 0x106A_A070,
        0x19A4_C116, 0x1E37_6C08, 0x2748_774C, 0x34B0_BCB5, 0x391C_0CB3, 0x4ED8_AA4A,
        0x5B9C_CA4F, 0x682E_6FF3, 0x748F_82EE, 0x78A5_636F, 0x84C8_7814, 0x8CC7_0208,
        0x90BE_FFFA, 0xA450_6CEB, 0xBEF9_A3F7, 0xC671_78F2,
    ]

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        count &+= UInt64(bytes.count)
        var at = 0
        if !rest.isEmpty {
            at = min(64 - rest.count, bytes.count)
            rest.append(contentsOf: bytes[..<at])
            guard rest.count == 64 else { return }
            rest.withUnsafeBytes { compress($0, blocks: 1) }
            rest.removeAll(keepingCapacity: true)
        }
        let blocks = (bytes.count - at) / 64
        if blocks > 0 {
            compress(UnsafeRawBufferPointer(rebasing: bytes[at...]), blocks: blocks)
            at += 64 * blocks
        }
        rest.append(contentsOf: bytes[at...])
    }

    /// The eight words of the digest; nothing may be added behind them.
    mutating func finalize() -> [UInt32] {
        let bits = count &* 8
        var tail = rest + [0x80]
        tail += [UInt8](repeating: 0, count: (64 + 56 - tail.count % 64) % 64)
        tail += (0..<8).map { UInt8(truncatingIfNeeded: bits >> UInt64(56 - 8 * $0)) }
        tail.withUnsafeBytes { compress($0, blocks: $0.count / 64) }
        return (0..<8).map { hash[$0] }
    }

    private mutating func compress(_ bytes: UnsafeRawBufferPointer, blocks: Int) {
        guard let base = bytes.baseAddress else { return }
        Self.constants.withUnsafeBufferPointer { constants in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { words in
                for block in 0..<blocks {
                    compress(base + 64 &* block, constants, words)
                }
            }
        }
    }

    @inline(__always)
    private mutating func compress(
        _ block: UnsafeRawPointer,
        _ constants: UnsafeBufferPointer<UInt32>,
        _ words: UnsafeMutableBufferPointer<UInt32>
    ) {
        for index in 0..<16 {
            let word = block.loadUnaligned(fromByteOffset: 4 &* index, as: UInt32.self)
            words[index] = UInt32(bigEndian: word)
        }
        for index in 16..<64 {
            let (early, late) = (words[index &- 15], words[index &- 2])
            let first = rotate(early, 7) ^ rotate(early, 18) ^ early &>> 3
            let second = rotate(late, 17) ^ rotate(late, 19) ^ late &>> 10
            words[index] = words[index &- 16] &+ first &+ words[index &- 7] &+ second
        }
        var (a, b, c, d) = (hash[0], hash[1], hash[2], hash[3])
        var (e, f, g, h) = (hash[4], hash[5], hash[6], hash[7])
        for index in 0..<64 {
            let choice = e & f ^ ~e & g
            let upper = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)
            let first = h &+ upper &+ choice &+ constants[index] &+ words[index]
            let majority = a & b ^ a & c ^ b & c
            let second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) &+ majority
            (h, g, f, e) = (g, f, e, d &+ first)
            (d, c, b, a) = (c, b, a, first &+ second)
        }
        hash = hash &+ SIMD8(a, b, c, d, e, f, g, h)
    }

    @inline(__always)
    private func rotate(_ word: UInt32, _ places: UInt32) -> UInt32 {
        word &>> places | word &<< (32 &- places)
    }
}

/// Reads a file from its first byte to its last, in pieces of a bounded size.
private func readPieces(
    of path: String,
    _ body: (UnsafeRawBufferPointer) -> Void
) throws(FormatError) {
    func fail(_ reason: String) -> FormatError {
        FormatError(.file, file: path, field: "file", reason: reason)
    }
    let opened: (descriptor: Int32, kind: PathKind, size: Int)
    switch openForReading(path) {
    case .success(let found): opened = found
    case .failure(let problem): throw fail("cannot be opened: \(problem.text)")
    }
    defer { closeFile(opened.descriptor) }
    guard opened.kind == .file else { throw fail("this is not a regular file") }
    let piece = 1 << 20
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: piece, alignment: 64)
    defer { buffer.deallocate() }
    var offset = 0
    while true {
        guard let got = readFile(opened.descriptor, into: buffer, at: offset) else {
            throw fail("cannot be read: \(systemReason())")
        }
        if got == 0 {
            return
        }
        body(UnsafeRawBufferPointer(rebasing: buffer[..<got]))
        offset += got
    }
}
