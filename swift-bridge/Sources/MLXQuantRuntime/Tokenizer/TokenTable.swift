/// The texts of tokens by id, and ids by text. Texts are told apart by their bytes.
struct TokenTable: Sendable {
    /// The most ids: ten times those of the largest vocabularies in use.
    static let mostTokens = 4_000_000

    private var bytes: [UInt8] = []
    /// Where each id's text is in `bytes`; an empty range at 0 for ids that no text has.
    private var spans: [Range<Int32>] = []
    /// Open addressing: ids, -1 where a slot is free.
    private var slots: [Int32] = []
    private(set) var tokenCount = 0

    /// How many ids there are: one more than the largest.
    var idCount: Int { spans.count }

    /// - Parameter capacity: how many tokens will be added, about.
    init(capacity: Int) {
        var size = 64
        while size < capacity * 2 { size *= 2 }
        slots = Array(repeating: -1, count: size)
        spans.reserveCapacity(capacity)
        bytes.reserveCapacity(capacity * 7)
    }

    /// Adds a token; a text that is there already keeps its first id. False where the id is taken by
    /// another text, or out of range.
    mutating func add(_ text: String, id: Int) -> Bool {
        guard (0..<Self.mostTokens).contains(id), bytes.count + text.utf8.count < Int(Int32.max)
        else { return false }
        let start = Int32(bytes.count)
        var text = text
        text.withUTF8 { bytes.append(contentsOf: $0) }
        let span = start..<Int32(bytes.count)
        while spans.count <= id { spans.append(0..<0) }
        if !spans[id].isEmpty { return text.utf8.elementsEqual(self.bytes(of: id)) }
        spans[id] = span
        tokenCount += 1
        if tokenCount * 2 > slots.count { grow() }
        insert(Int32(id))
        return true
    }

    private mutating func grow() {
        slots = Array(repeating: -1, count: slots.count * 2)
        for id in spans.indices where !spans[id].isEmpty { insert(Int32(id)) }
    }

    private mutating func insert(_ id: Int32) {
        let slot = bytes.withUnsafeBytes { buffer in
            find(Self.part(buffer, spans[Int(id)]), in: buffer)
        }
        if slots[slot] < 0 { slots[slot] = id }
    }

    func bytes(of id: Int) -> ArraySlice<UInt8> {
        guard spans.indices.contains(id) else { return [] }
        return bytes[Int(spans[id].lowerBound)..<Int(spans[id].upperBound)]
    }

    func text(of id: Int) -> String? {
        guard spans.indices.contains(id), !spans[id].isEmpty else { return nil }
        return String(decoding: bytes(of: id), as: UTF8.self)
    }

    func id(of text: String) -> Int? {
        var text = text
        return text.withUTF8 { id(of: UnsafeRawBufferPointer($0)) }.map(Int.init)
    }

    func id(of text: UnsafeRawBufferPointer) -> Int32? {
        bytes.withUnsafeBytes { buffer in
            let id = slots[find(text, in: buffer)]
            return id < 0 ? nil : id
        }
    }

    /// The slot of a text, or the free one that it would have.
    private func find(_ text: UnsafeRawBufferPointer, in buffer: UnsafeRawBufferPointer) -> Int {
        var hasher = Hasher()
        hasher.combine(bytes: text)
        let mask = slots.count - 1
        var slot = hasher.finalize() & mask
        while slots[slot] >= 0 {
            let other = Self.part(buffer, spans[Int(slots[slot])])
            if other.count == text.count, other.elementsEqual(text) { break }
            slot = (slot + 1) & mask
        }
        return slot
    }

    private static func part(
        _ buffer: UnsafeRawBufferPointer,
        _ span: Range<Int32>
    ) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: buffer[Int(span.lowerBound)..<Int(span.upperBound)])
    }
}
