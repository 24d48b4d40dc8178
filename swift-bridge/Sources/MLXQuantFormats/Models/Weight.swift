/// A weight of a model: its place in the files, and how to decode it. Nothing is read until asked.
///
/// A weight of several dimensions is rows, the last dimension, one after the other; all but the last
/// dimension are folded into the number of rows. One of one dimension is a single row.
public struct Weight: Sendable {
    /// The name that the model has for it, such as `model.layers.0.mlp.up_proj.weight` or `blk.0.ffn_up.weight`.
    public let name: String
    /// The dimensions in weights, rows last.
    public let shape: [Int]
    /// How the weights are stored.
    public let format: WeightFormat
    /// The bytes of each of the format's parts, in the order of ``WeightFormat/parts``; rows one
    /// after the other.
    public let parts: [FileRegion]

    /// How many rows there are.
    public let rows: Int
    /// How many weights a row has.
    public let columns: Int

    /// A weight whose parts hold what its shape calls for.
    init(name: String, shape: [Int], format: WeightFormat, parts: [FileRegion]) {
        self.name = name
        self.shape = shape
        self.format = format
        self.parts = parts
        columns = shape.last ?? 1
        // dimensions without a weight in them may be of any size
        rows = shape.dropLast().reduce(1) { product, dimension in
            let (rows, overflow) = product.multipliedReportingOverflow(by: dimension)
            return overflow ? 0 : rows
        }
        let blocks = rows * columns / format.blockSize
        precondition(
            zip(parts, format.parts).allSatisfy { $0.count == blocks * $1.blockBytes },
            "a weight's parts are checked against its shape before it is made"
        )
    }

    /// How many bytes the weight takes in its files.
    public var bytes: Int {
        parts.reduce(0) { $0 + $1.count }
    }

    /// How many weights there are.
    public var count: Int {
        rows * columns
    }

    /// Decodes rows.
    ///
    /// - Parameters:
    ///   - range: which rows.
    ///   - out: where they go, `range.count · columns` values; more room is left as it is.
    /// - Throws: ``FormatError`` if there are no such rows, `out` is too small, or the format cannot
    ///   be decoded.
    public func decode(
        rows range: Range<Int>,
        into out: UnsafeMutableBufferPointer<Float>
    ) throws(FormatError) {
        try decode(range, room: out.count) { (wire, blocks) throws(FormatError) in
            try format.decode(wire, blocks: blocks, into: out)
        }
    }

    /// Decodes rows to the bits of float16, each weight rounded to nearest, ties to even.
    ///
    /// - Parameters:
    ///   - range: which rows.
    ///   - out: where they go, `range.count · columns` values; more room is left as it is.
    /// - Throws: ``FormatError`` as for `Float`.
    public func decode(
        rows range: Range<Int>,
        intoHalfBits out: UnsafeMutableBufferPointer<UInt16>
    ) throws(FormatError) {
        try decode(range, room: out.count) { (wire, blocks) throws(FormatError) in
            try format.decode(wire, blocks: blocks, intoHalfBits: out)
        }
    }

    /// Rows as floats, one after the other.
    ///
    /// - Parameter range: which rows; all where nothing is said.
    /// - Returns: `range.count · columns` values.
    /// - Throws: ``FormatError`` if there are no such rows, or the format cannot be decoded.
    public func floats(rows range: Range<Int>? = nil) throws(FormatError) -> [Float] {
        let range = range ?? 0..<rows
        var found = [Float](repeating: 0, count: try room(for: range))
        try found.withUnsafeMutableBufferPointer { (out) throws(FormatError) in
            try decode(rows: range, into: out)
        }
        return found
    }

    /// Rows as the bits of float16, one after the other.
    ///
    /// - Parameter range: which rows; all where nothing is said.
    /// - Returns: `range.count · columns` values.
    /// - Throws: ``FormatError`` as for `Float`.
    public func halfBits(rows range: Range<Int>? = nil) throws(FormatError) -> [UInt16] {
        let range = range ?? 0..<rows
        var found = [UInt16](repeating: 0, count: try room(for: range))
        try found.withUnsafeMutableBufferPointer { (out) throws(FormatError) in
            try decode(rows: range, intoHalfBits: out)
        }
        return found
    }

    /// How many values these rows have.
    private func room(for range: Range<Int>) throws(FormatError) -> Int {
        guard range.lowerBound >= 0, range.upperBound <= rows else {
            throw fail("rows \(range.lowerBound) up to \(range.upperBound), there are \(rows)")
        }
        return range.count * columns
    }

    private func decode(
        _ range: Range<Int>,
        room: Int,
        _ body: ([UnsafeRawBufferPointer], Int) throws(FormatError) -> Void
    ) throws(FormatError) {
        let needed = try self.room(for: range)
        guard room >= needed else {
            throw fail("room for \(room) values, \(needed) needed")
        }
        let blocks = needed / format.blockSize
        let first = range.lowerBound * columns / format.blockSize
        // The files live as long as `self`, and their bytes as long as they.
        defer { withExtendedLifetime(self) {} }
        let wire = zip(parts, format.parts).map { region, part in
            region.withUnsafeBytes { bytes in
                UnsafeRawBufferPointer(rebasing: bytes[(first * part.blockBytes)...])
            }
        }
        try body(wire, blocks)
    }

    private func fail(_ reason: String) -> FormatError {
        FormatError(
            .request,
            file: parts.first?.file.path ?? "",
            field: "tensor \(quote(name))",
            reason: reason
        )
    }
}

// Intel Macs have no Float16.
#if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
    extension Weight {
        /// Decodes rows, each weight rounded to nearest, ties to even.
        ///
        /// - Parameters:
        ///   - range: which rows.
        ///   - out: where they go, `range.count · columns` values; more room is left as it is.
        /// - Throws: ``FormatError`` as for `Float`.
        public func decode(
            rows range: Range<Int>,
            into out: UnsafeMutableBufferPointer<Float16>
        ) throws(FormatError) {
            try out.withMemoryRebound(to: UInt16.self) { (bits) throws(FormatError) in
                try decode(rows: range, intoHalfBits: bits)
            }
        }

        /// Rows as float16, one after the other.
        ///
        /// - Parameter range: which rows; all where nothing is said.
        /// - Returns: `range.count · columns` values.
        /// - Throws: ``FormatError`` as for `Float`.
        public func halves(rows range: Range<Int>? = nil) throws(FormatError) -> [Float16] {
            try halfBits(rows: range).map(Float16.init(bitPattern:))
        }
    }
#endif
