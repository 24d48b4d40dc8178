import Dispatch

#if canImport(Darwin)
    import Darwin
#elseif canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Work shared among threads.
struct Parallel: Sendable {
    /// How many threads share it.
    let threads: Int

    /// Less work than this, in multiplications, is done at once: to wake a thread costs as much.
    static let least = 1 << 16

    /// - Parameter threads: how many; 0 for one a processor.
    init(threads: Int = 0) {
        let processors = Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        self.threads = max(1, min(threads > 0 ? threads : processors, 256))
    }

    /// Calls `body` with ranges that together are `0..<count`, from several threads at once.
    ///
    /// - Parameters:
    ///   - count: how many things are to be done.
    ///   - cost: what one of them takes, in multiplications.
    ///   - body: does those in a range.
    func over(_ count: Int, cost: Int, _ body: (Range<Int>) -> Void) {
        let work = count.multipliedReportingOverflow(by: cost)
        let useful = work.overflow ? threads : min(threads, work.partialValue / Self.least, count)
        guard useful > 1 else {
            if count > 0 { body(0..<count) }
            return
        }
        // Four pieces a thread: where one is held up, the others take over.
        let pieces = min(count, work.partialValue / Self.least > 4 * useful ? 4 * useful : useful)
        withoutActuallyEscaping(body) { body in
            // The pieces are done when this returns, and write to places of their own.
            nonisolated(unsafe) let shared = body
            DispatchQueue.concurrentPerform(iterations: pieces) { piece in
                let first = count * piece / pieces
                let end = count * (piece + 1) / pieces
                if first < end { shared(first..<end) }
            }
        }
    }
}
