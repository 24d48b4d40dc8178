import Foundation

@testable import MLXQuantFormats

/// A model of tests/hostile: see tests/swift_package/hostile_cases.py.
struct HostileCase: Sendable {
    enum Entry: Sendable {
        case file(name: String, content: Int, size: UInt64)
        case link(name: String, target: String)
        case pipe(name: String)
        case folder(name: String)
    }

    let group: String
    let name: String
    /// What to open, in the folder that `build` fills.
    let path: String
    /// The class of Python's error: `file`, `model`, or empty where it opens.
    let kind: String
    /// What the error's line must contain.
    let says: [String]
    let entries: [Entry]

    /// Every case of hostile.bin, and the contents of its files.
    static let golden: (cases: [HostileCase], contents: [[UInt8]]) = {
        guard let bytes = try? goldenFile("hostile.bin") else { return ([], []) }
        var reader = Reader(bytes)
        guard reader.raw(8) == Array("MQHOST1\0".utf8) else { return ([], []) }
        let contents = (0..<reader.number(UInt32.self)).map { _ in reader.pieces() }
        let cases = (0..<reader.number(UInt32.self)).map { _ in reader.hostileCase() }
        return (cases, contents)
    }()

    /// The cases of some groups.
    static func cases(_ groups: String...) -> [HostileCase] {
        golden.cases.filter { groups.contains($0.group) }
    }

    /// The contents of the small files of these cases whose names end so.
    static func files(_ cases: [HostileCase], ending: String) -> [[UInt8]] {
        cases.flatMap(\.entries).compactMap { entry in
            guard case .file(let name, let content, 0) = entry, name.hasSuffix(ending) else {
                return nil
            }
            return golden.contents[content]
        }.filter { $0.count < 1 << 15 }
    }

    /// Writes the files into an empty folder; returns the path to open.
    func build(in folder: URL) throws -> String {
        for entry in entries {
            switch entry {
            case .folder(let name):
                try FileManager.default.createDirectory(
                    at: folder.appendingPathComponent(name),
                    withIntermediateDirectories: true
                )
            case .file(let name, let content, let size):
                let file = folder.appendingPathComponent(name)
                try Data(Self.golden.contents[content]).write(to: file)
                if size > 0 {
                    truncate(file.path, off_t(size))
                }
            case .link(let name, let target):
                let whole = target.hasPrefix("@") ? folder.path + target.dropFirst() : target
                symlink(whole, folder.appendingPathComponent(name).path)
            case .pipe(let name):
                mkfifo(folder.appendingPathComponent(name).path, 0o600)
            }
        }
        return "\(folder.path)/\(path)"
    }
}

extension Reader {
    fileprivate mutating func longText() -> String {
        let count = number(UInt16.self)
        return String(decoding: raw(count), as: UTF8.self)
    }

    fileprivate mutating func pieces() -> [UInt8] {
        var content: [UInt8] = []
        for _ in 0..<number(UInt32.self) {
            if number(UInt8.self) == 0 {
                let count = number(UInt32.self)
                content += raw(count)
            } else {
                let count = number(UInt8.self)
                let unit = raw(count)
                for _ in 0..<number(UInt32.self) {
                    content += unit
                }
            }
        }
        return content
    }

    fileprivate mutating func hostileCase() -> HostileCase {
        let texts = (0..<4).map { _ in longText() }
        let says = (0..<number(UInt32.self)).map { _ in longText() }
        let entries = (0..<number(UInt32.self)).map { _ in
            let name = longText()
            switch number(UInt8.self) {
            case 0:
                let content = number(UInt32.self)
                let size = UInt64(number(UInt64.self))
                return HostileCase.Entry.file(name: name, content: content, size: size)
            case 1: return .link(name: name, target: longText())
            case 2: return .pipe(name: name)
            default: return .folder(name: name)
            }
        }
        return HostileCase(
            group: texts[0],
            name: texts[1],
            path: texts[2],
            kind: texts[3],
            says: says,
            entries: entries
        )
    }
}
