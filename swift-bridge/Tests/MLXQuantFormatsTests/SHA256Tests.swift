import Foundation
import TestSupport
import Testing

@testable import MLXQuantFormats

/// Messages and digests of FIPS 180-4's examples, and of lengths around a block's.
private let known: [(message: [UInt8], digest: String)] = [
    ([], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (Array("abc".utf8), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        Array("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8),
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    (
        [UInt8](repeating: UInt8(ascii: "a"), count: 1_000_000),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    ),
]

@Suite("SHA-256")
struct SHA256Tests {
    @Test("known answers, whole and in pieces", arguments: [1, 63, 64, 65, 1 << 20])
    func knownAnswers(_ piece: Int) {
        for (message, digest) in known {
            var ours = SHA256Digest()
            var plain = PlainSHA256()
            var at = 0
            while at < message.count {
                let end = min(at + max(piece, message.count / 1000), message.count)
                message[at..<end].withUnsafeBytes {
                    ours.update($0)
                    plain.update($0)
                }
                at = end
            }
            #expect(ours.hexadecimal() == digest)
            #expect(plain.finalize().map { hex($0, digits: 8) }.joined() == digest)
        }
    }

    @Test("of a file")
    func file() throws {
        try withFolder { folder in
            let path = folder.appendingPathComponent("abc").path
            try Data("abc".utf8).write(to: URL(fileURLWithPath: path))
            #expect(try SHA256Digest.of(file: path) == known[1].digest)
            #expect(throws: FormatError.self) { try SHA256Digest.of(file: folder.path) }
        }
    }
}
