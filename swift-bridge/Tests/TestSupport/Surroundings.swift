import Foundation

/// Calls `body` with an empty folder of its own.
public func withFolder<Result>(_ body: (URL) throws -> Result) throws -> Result {
    let folder = FileManager.default.temporaryDirectory
        .appendingPathComponent("mlxquant-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    // without the links that a system may have in the path of its temporary folder
    guard let real = realpath(folder.path, nil) else { return try body(folder) }
    defer { free(real) }
    return try body(URL(fileURLWithPath: String(cString: real)))
}

/// Writes a file anew: cutting an old one short makes some systems write it out.
public func write(_ bytes: some Sequence<UInt8>, _ file: URL) throws {
    try? FileManager.default.removeItem(at: file)
    try Data(bytes).write(to: file)
}

/// Does something in a thread with as little stack as Apple's systems give those of an app: half a
/// megabyte.
public func onSmallStack<Result: Sendable>(
    _ body: @escaping @Sendable () throws -> Result
) throws -> Result {
    let done = DispatchSemaphore(value: 0)
    let box = Box<Swift.Result<Result, any Error>>()
    let thread = Thread {
        box.value = Swift.Result { try body() }
        done.signal()
    }
    thread.stackSize = 512 << 10
    thread.start()
    done.wait()
    guard let result = box.value else { throw CancellationError() }
    return try result.get()
}

private final class Box<Value>: @unchecked Sendable {
    var value: Value?
}
