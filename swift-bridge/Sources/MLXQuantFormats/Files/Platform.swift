// The few calls of the operating system, so that no other file needs to know which one it is.

#if _pointerBitWidth(_32)
    #error("mlxquant maps files of many gigabytes, which takes a 64-bit system")
#endif

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Android)
    import Android
#elseif canImport(Darwin)
    import Darwin
#endif

/// What stands under a path.
enum PathKind {
    case file
    case folder
    case other
}

/// What the system says of the last call that failed.
func systemReason() -> String {
    String(cString: strerror(errno))
}

/// Opens a file for reading, and looks at it.
///
/// Pipes, sockets and devices are opened without waiting on them, and so can be refused.
///
/// - Returns: the descriptor, what it is and its size in bytes; or the system's reason.
func openForReading(_ path: String) -> Result<
    (descriptor: Int32, kind: PathKind, size: Int), Reason
> {
    guard !path.utf8.contains(0) else { return .failure(Reason("a path with a NUL")) }
    let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    guard descriptor >= 0 else { return .failure(Reason(systemReason())) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
        let reason = systemReason()
        close(descriptor)
        return .failure(Reason(reason))
    }
    return .success((descriptor, kind(of: status), Int(status.st_size)))
}

/// Closes what `openForReading` opened.
func closeFile(_ descriptor: Int32) {
    close(descriptor)
}

/// Maps a file of `size` bytes, not 0, for reading; nil and the system's reason where it cannot be.
func mapFile(_ descriptor: Int32, size: Int) -> Result<UnsafeRawPointer, Reason> {
    let found = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0)
    guard let found, found != MAP_FAILED else { return .failure(Reason(systemReason())) }
    return .success(UnsafeRawPointer(found))
}

/// Says whether the bytes around those that are used will be wanted too, and so are read with them.
func adviseFile(_ bytes: UnsafeRawBufferPointer, readAhead: Bool) {
    guard let base = bytes.baseAddress else { return }
    let advice = readAhead ? MADV_NORMAL : MADV_RANDOM
    _ = madvise(UnsafeMutableRawPointer(mutating: base), bytes.count, Int32(advice))
}

/// A copy of bytes that ends at a page which nobody may read, and the mapping that holds both.
func mapGuarded(
    _ bytes: [UInt8]
) -> Result<(UnsafeRawPointer?, UnsafeRawBufferPointer), Reason> {
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let room = (bytes.count + page - 1) / page * page
    let flags = MAP_PRIVATE | MAP_ANONYMOUS
    let found = mmap(nil, room + page, PROT_READ | PROT_WRITE, flags, -1, 0)
    guard let found, found != MAP_FAILED, mprotect(found + room, page, PROT_NONE) == 0 else {
        return .failure(Reason(systemReason()))
    }
    let start = found + (room - bytes.count)
    start.copyMemory(from: bytes, byteCount: bytes.count)
    return .success(
        (
            UnsafeRawPointer(start), UnsafeRawBufferPointer(start: found, count: room + page)
        )
    )
}

/// Ends a mapping.
func unmapFile(_ base: UnsafeRawPointer, size: Int) {
    munmap(UnsafeMutableRawPointer(mutating: base), size)
}

/// Reads up to `buffer.count` bytes at `offset`; fewer at the file's end, nil where it fails.
func readFile(_ descriptor: Int32, into buffer: UnsafeMutableRawBufferPointer, at offset: Int)
    -> Int?
{
    let got = pread(descriptor, buffer.baseAddress, buffer.count, off_t(offset))
    return got < 0 ? nil : got
}

/// What stands under a path, links followed; nil where nothing does.
func kindOfPath(_ path: String) -> PathKind? {
    guard !path.utf8.contains(0) else { return nil }
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    return kind(of: status)
}

/// The size of what stands under a path, links followed; nil where nothing does.
func sizeOfPath(_ path: String) -> Int? {
    guard !path.utf8.contains(0) else { return nil }
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_size) : nil
}

/// Where a symbolic link points; nil for what is none.
func linkTarget(_ path: String) -> String? {
    guard !path.utf8.contains(0) else { return nil }
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink(path, &buffer, buffer.count)
    return count < 0
        ? nil : String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// The path with all links resolved; nil where it leads nowhere.
func realPath(_ path: String) -> String? {
    guard !path.utf8.contains(0), let found = realpath(path, nil) else { return nil }
    defer { free(found) }
    return String(cString: found)
}

/// The names in a folder, sorted; or the system's reason and whether the path is a file.
func listFolder(_ path: String) -> Result<[String], Reason> {
    guard !path.utf8.contains(0) else { return .failure(Reason("a path with a NUL")) }
    guard let folder = opendir(path) else { return .failure(Reason(systemReason())) }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) { tuple in
            tuple.withMemoryRebound(
                to: CChar.self,
                capacity: MemoryLayout.size(ofValue: entry.pointee.d_name)
            ) { String(cString: $0) }
        }
        if name != "." && name != ".." {
            names.append(name)
        }
    }
    return .success(names.sorted())
}

/// Why a call of the system failed.
struct Reason: Error {
    let text: String

    init(_ text: String) {
        self.text = text
    }
}

private func kind(of status: stat) -> PathKind {
    switch status.st_mode & S_IFMT {
    case S_IFREG: .file
    case S_IFDIR: .folder
    default: .other
    }
}
