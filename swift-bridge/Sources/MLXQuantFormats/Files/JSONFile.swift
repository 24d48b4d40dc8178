extension JSON {
    /// The largest files of each kind that are read, in bytes; several times what any model needs.
    package enum Limit {
        package static let config = 16 << 20
        package static let index = 64 << 20
        package static let tokenizer = 192 << 20
    }

    /// The object that a JSON file holds.
    ///
    /// - Parameters:
    ///   - path: of the file.
    ///   - limit: the largest file that is read, in bytes; 16 MB where nothing is said.
    /// - Returns: the object; its names are unique.
    /// - Throws: ``FormatError`` if it is missing or no regular file; larger than `limit`; not
    ///   UTF-8, or with a byte-order mark; not JSON; nested deeper than 64; has a name twice in one
    ///   object, NaN or infinity as a bare word, or text with lone surrogates; or is no object.
    public static func readObject(
        _ path: String,
        limit: Int = 16 << 20
    ) throws(FormatError) -> JSONObject {
        let file = try MappedFile(path)
        func fail(_ field: String, _ offset: Int?, _ reason: String) -> FormatError {
            FormatError(.file, file: path, field: field, offset: offset, reason: reason)
        }
        let what = sniff(file.prefix(sniffedBytes)).map { "this is \($0)" }
        guard file.size > 0 else { throw fail("content", 0, what ?? "an empty file") }
        guard file.size <= limit else {
            throw fail("size", nil, what ?? "\(file.size) bytes, at most \(limit) expected")
        }
        return try file.withUnsafeBytes { (bytes) throws(FormatError) in
            if bytes.starts(with: [0xEF, 0xBB, 0xBF]) {
                throw fail("encoding", 0, "a byte-order mark; save it as plain UTF-8")
            }
            var parser = JSONParser(bytes)
            let value: JSON
            do throws(JSONParser.Problem) {
                value = try parser.whole()
            } catch {
                if let bad = invalidUTF8(in: bytes) {
                    throw fail("encoding", bad, what ?? "not UTF-8")
                }
                switch error.field {
                case .named(let field): throw fail(field, error.offset, error.reason)
                case .syntax:
                    let line = bytes[..<(error.offset ?? 0)].count { $0 == UInt8(ascii: "\n") } + 1
                    throw fail(
                        "line \(line)",
                        error.offset,
                        what ?? "invalid JSON: \(error.reason)"
                    )
                }
            }
            guard case .object(let object) = value else {
                throw fail("content", 0, "an object {…} expected, found \(kindName(of: value))")
            }
            return object
        }
    }

    /// Refuses a file that cannot be a JSON object, by its size and its first and last bytes: finds
    /// what is something else or was cut short, and leaves the rest to who reads it.
    static func checkEnds(_ path: String, limit: Int) throws(FormatError) {
        let file = try MappedFile(path)
        func fail(_ field: String, _ offset: Int?, _ reason: String) -> FormatError {
            FormatError(.file, file: path, field: field, offset: offset, reason: reason)
        }
        let what = sniff(file.prefix(sniffedBytes)).map { "this is \($0)" }
        guard file.size > 0 else { throw fail("content", 0, what ?? "an empty file") }
        guard file.size <= limit else {
            throw fail("size", nil, what ?? "\(file.size) bytes, at most \(limit) expected")
        }
        let ends = file.withUnsafeBytes { bytes in
            let first = bytes.prefix(sniffedBytes).first { !isJSONSpace($0) }
            let last = bytes.suffix(sniffedBytes).last { !isJSONSpace($0) }
            return (first, last)
        }
        guard ends.0 == UInt8(ascii: "{") else {
            let list = ends.0 == UInt8(ascii: "[")
            let reason = list ? "an object {…} expected, found a list" : "'{' expected"
            throw fail("content", 0, what ?? "\(reason); is it cut short?")
        }
        guard ends.1 == UInt8(ascii: "}") else {
            throw fail("content", file.size, what ?? "'}' expected; is it cut short?")
        }
    }
}

private func kindName(of value: JSON) -> String {
    switch value {
    case .null: "null"
    case .bool: "a truth value"
    case .number: "a number"
    case .string: "text"
    case .array: "a list"
    case .object: "an object"
    }
}
