#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Android)
    import Android
#elseif canImport(Darwin)
    import Darwin
#endif

import MLXQuantFormats

/// A line on stderr, control characters escaped.
func note(_ text: String) {
    try? emit(oneLine(text, limit: 10_000) + "\n", to: STDERR_FILENO)
}

/// What could not be written, and why.
struct OutputError: Error, CustomStringConvertible {
    let description: String

    /// By `errno`.
    init() {
        description = "standard output: \(String(cString: strerror(errno)))"
    }
}

/// Writes at once, past the buffer of `print`.
///
/// - Throws: ``OutputError``. Where the reader of a pipe has gone, the process ends by SIGPIPE.
func emit(_ text: String, to descriptor: Int32 = STDOUT_FILENO) throws(OutputError) {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
        let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno != EINTR { throw OutputError() }
        bytes = bytes.dropFirst(max(count, 0))
    }
}

/// Ends the process; with 1 where what was printed could not be written.
func finish(_ status: Int32) -> Never {
    guard fflush(nil) == 0 else {
        note("error: \(OutputError())")
        exit(1)
    }
    exit(status)
}

/// Names and values, a pair a line.
func printPairs(_ rows: [(String, String)]) {
    printColumns(rows.map { [$0.0, $0.1] }, right: [])
}

/// A table with a header; columns at the places of `right` are set to the right.
func printTable(_ header: [String], _ rows: [[String]], right: Set<Int>) {
    printColumns([header] + rows, right: right)
}

/// Title and lines; nothing where there are no lines.
func printList(_ title: String, _ lines: [String]) {
    guard !lines.isEmpty else { return }
    print("\n\(title)")
    lines.forEach { print("  \(safe($0))") }
}

/// Text from outside with its control characters escaped, whole.
func safe(_ text: String) -> String {
    oneLine(text, limit: 1 << 20)
}

/// `14.7 MB`, in powers of a thousand.
func bytesText(_ count: Int) -> String {
    guard count >= 1000 else { return "\(count) B" }
    var value = Double(count)
    var units = ["kB", "MB", "GB", "TB", "PB", "EB"][...]
    var unit = ""
    while value >= 999.5, let next = units.popFirst() {
        (value, unit) = (value / 1000, next)
    }
    return "\(decimal(value, value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2)) \(unit)"
}

/// `7,344,384`.
func grouped(_ number: Int) -> String {
    let digits = Array(String(number))
    var text = ""
    for (place, digit) in digits.enumerated() {
        if place > 0, digit != "-", (digits.count - place) % 3 == 0, digits[place - 1] != "-" {
            text += ","
        }
        text.append(digit)
    }
    return text
}

/// A number that is not negative, with so many digits behind the point.
func decimal(_ value: Double, _ digits: Int) -> String {
    let power = (0..<digits).reduce(1.0) { product, _ in product * 10 }
    let scaled = (value * power).rounded()
    guard digits > 0, scaled.isFinite, scaled < 1e15 else { return "\(Int(scaled))" }
    let text = String(Int(scaled))
    let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
    return padded.dropLast(digits) + "." + padded.suffix(digits)
}

/// Cells in columns, set to the left but at the places of `right`.
func printColumns(_ rows: [[String]], right: Set<Int>) {
    guard let columns = rows.first?.count else { return }
    let widths = (0..<columns).map { column in
        rows.lazy.map { $0[column].unicodeScalars.count }.max() ?? 0
    }
    for row in rows {
        let cells = row.enumerated().map { column, cell in
            let gap = String(repeating: " ", count: widths[column] - cell.unicodeScalars.count)
            return right.contains(column) ? gap + cell : cell + gap
        }
        var line = cells.joined(separator: "  ")
        while line.hasSuffix(" ") {
            line.removeLast()
        }
        print(line)
    }
}
