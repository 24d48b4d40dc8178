// What a file that is not what it should be is instead: said in the error, so that it can be fixed.

/// Bytes of a file's beginning that `sniff` looks at.
let sniffedBytes = 512

private let pickle = "a pickle; pickles can run code and are never opened"

private let magics: [([UInt8], String)] = [
    (
        [0x50, 0x4B, 0x03, 0x04],
        "a ZIP archive (PyTorch's .bin and .pt files are ZIP archives of a pickle)"
    ),
    ([0x50, 0x4B, 0x05, 0x06], "an empty ZIP archive"),
    ([0x80, 0x02], pickle),
    ([0x80, 0x03], pickle),
    ([0x80, 0x04], pickle),
    ([0x80, 0x05], pickle),
    ([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A], "a PNG image"),
    ([0xFF, 0xD8, 0xFF], "a JPEG image"),
    (Array("%PDF-".utf8), "a PDF document"),
    (Array("GGUF".utf8), "a GGUF file"),
    (Array("FUGG".utf8), "a byte-swapped GGUF file"),
    ([0x1F, 0x8B], "a gzip archive: unpack it first"),
    ([0x28, 0xB5, 0x2F, 0xFD], "a zstd archive: unpack it first"),
    ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00], "an xz archive: unpack it first"),
    ([0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C], "a 7-Zip archive: unpack it first"),
    ([0x93] + Array("NUMPY".utf8), "a NumPy .npy file"),
    ([0x89] + Array("HDF\r\n\u{1A}\n".utf8), "an HDF5 file"),
    (Array("SQLite format 3\0".utf8), "an SQLite database"),
]

/// What a file is whose first bytes are these; nil where they tell nothing.
///
/// The answer completes the sentence "this is …".
func sniff(_ bytes: some Collection<UInt8>) -> String? {
    let prefix = Array(bytes.prefix(sniffedBytes))
    if prefix.isEmpty {
        return "an empty file: download it again"
    }
    if prefix.starts(with: "version https://git-lfs.github.com/spec/".utf8) {
        return "a Git LFS pointer: run git lfs pull"
    }
    if let (_, what) = magics.first(where: { prefix.starts(with: $0.0) }) {
        return what
    }
    let marked = prefix.starts(with: [0xEF, 0xBB, 0xBF])
    let text = prefix.dropFirst(marked ? 3 : 0).drop(while: isSpace).map { byte in
        byte >= 0x41 && byte <= 0x5A ? byte | 0x20 : byte
    }
    for tag in ["<!doctype html", "<html", "<head", "<body"] where text.starts(with: tag.utf8) {
        return "an HTML page (a login or an error page?): download the file itself"
    }
    if text.starts(with: "<?xml".utf8) {
        return "an XML document (an error page?): download the file itself"
    }
    if prefix.count >= 16 && prefix.allSatisfy({ $0 == 0 }) {
        return "zero bytes from its start (an unfinished download?): download it again"
    }
    return nil
}

/// `sniff` for a path; names folders and special files too. nil where nothing is known.
func describePath(_ path: String) -> String? {
    switch kindOfPath(path) {
    case .folder: "a directory, not a file"
    case .other: "not a regular file"
    case .file: (try? MappedFile(path)).flatMap { sniff($0.prefix(sniffedBytes)) }
    case nil: nil
    }
}

private func isSpace(_ byte: UInt8) -> Bool {
    byte == 0x20 || (byte >= 0x09 && byte <= 0x0D)
}
