/// The Metal text of a kernel, put together from the files of `kernels/` as Python's
/// `kernels/source.py` does.
///
/// An include of a file stands for its text where it is first included, and for nothing later.
enum KernelSource {
    /// Everything that the calls of these kernels need for a format.
    ///
    /// - Parameters:
    ///   - format: one of ``formats``.
    ///   - kernel: whose template is needed.
    /// - Returns: the text that follows ``preamble``.
    static func header(_ format: String, _ kernel: Kernel) -> String {
        var seen: Set<String> = []
        return [format.lowercased(), kernel.file]
            .map { included($0, &seen) }
            .joined()
    }

    /// A file's text with what it includes in place; empty where it was included before.
    private static func included(_ name: String, _ seen: inout Set<String>) -> String {
        guard seen.insert(name).inserted else { return "" }
        guard let text = file(name) else {
            preconditionFailure("kernels/\(name).metal is not among the generated sources")
        }
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        var found = ""
        for (index, line) in lines.enumerated() {
            if let inner = includedName(line) {
                found += included(inner, &seen)
            } else {
                found += index + 1 < lines.count ? "\(line)\n" : line
            }
        }
        return name.hasPrefix("tables/") ? found : found + "\n"
    }

    /// The name in `#include "name.metal"`; nil for any other line.
    private static func includedName(_ line: Substring) -> String? {
        let (before, behind) = ("#include \"", ".metal\"")
        guard line.hasPrefix(before), line.hasSuffix(behind) else { return nil }
        return String(line.dropFirst(before.count).dropLast(behind.count))
    }
}
