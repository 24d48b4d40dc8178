/// Byte-pair encoding: a word is its characters, and neighbours are joined, the most urgent first.
struct BytePairModel: Sendable {
    /// What is urgent.
    enum Joining: Sendable {
        /// left id << 32 | right id → rank << 32 | id of the two together.
        case merges([UInt64: UInt64])
        /// Two neighbours are joined whose text is a token, by its score, whatever they are
        /// (SentencePiece, as llama.cpp does it).
        case scores([Float])
    }

    var table: TokenTable
    var joining: Joining
    /// A word that is itself a token is never looked at further.
    var takesWholeWords = false
    /// Ids of `<0x00>` to `<0xFF>`, for characters that are no tokens; empty for none.
    var byteIDs: [Int32] = []
    /// What stands for a character that is no token, and has no bytes; nil to leave it out.
    var unknownID: Int32?
    /// Whether unknown characters side by side are one token.
    var fusesUnknown = false

    private let lowIDs: [Int32]
    private let highIDs: [UInt32: Int32]

    init(table: TokenTable, joining: Joining) {
        self.table = table
        self.joining = joining
        var low = [Int32](repeating: -1, count: 0x400)
        var high: [UInt32: Int32] = [:]
        for id in 0..<table.idCount {
            let bytes = table.bytes(of: id)
            guard bytes.count <= 4, !bytes.isEmpty else { continue }
            let scalars = String(decoding: bytes, as: UTF8.self).unicodeScalars
            guard scalars.count == 1, let scalar = scalars.first?.value else { continue }
            if scalar < 0x400 { low[Int(scalar)] = Int32(id) } else { high[scalar] = Int32(id) }
        }
        lowIDs = low
        highIDs = high
    }

    func id(ofCharacter scalar: UInt32) -> Int32? {
        if scalar < 0x400 { return lowIDs[Int(scalar)] < 0 ? nil : lowIDs[Int(scalar)] }
        return highIDs[scalar]
    }

    /// Appends the tokens of a word.
    func encode(_ word: ArraySlice<UInt32>, into ids: inout [Int]) {
        if word.isEmpty { return }
        let bytes = utf8(word)
        if takesWholeWords, let id = bytes.withUnsafeBytes({ table.id(of: $0) }) {
            ids.append(Int(id))
            return
        }
        var merger = Merger(self, bytes: bytes)
        switch joining {
        case .merges: addTokens(of: word, to: &merger)
        case .scores: addCharacters(of: word, to: &merger)
        }
        merger.run()
        var index = merger.symbols.isEmpty ? -1 : 0
        while index >= 0 {
            let symbol = merger.symbols[index]
            if symbol.id >= 0 {
                ids.append(Int(symbol.id))
            } else {
                for byte in bytes[symbol.start..<(symbol.start + symbol.length)]
                where !byteIDs.isEmpty {
                    ids.append(Int(byteIDs[Int(byte)]))
                }
            }
            index = Int(symbol.next)
        }
    }

    /// Every character as its token, its bytes' tokens, the unknown token, or nothing.
    private func addTokens(of word: ArraySlice<UInt32>, to merger: inout Merger) {
        var start = 0
        var afterUnknown = false
        for scalar in word {
            let length = UTF8.width(scalar)
            defer { start += length }
            if let id = id(ofCharacter: scalar) {
                merger.add(id, start, length)
                afterUnknown = false
            } else if !byteIDs.isEmpty {
                for byte in 0..<length {
                    merger.add(byteIDs[Int(merger.bytes[start + byte])], start + byte, 1)
                }
                afterUnknown = false
            } else if let unknownID {
                if !(fusesUnknown && afterUnknown) { merger.add(unknownID, start, length) }
                afterUnknown = true
            }
        }
    }

    /// Every character, token or not.
    private func addCharacters(of word: ArraySlice<UInt32>, to merger: inout Merger) {
        var start = 0
        for scalar in word {
            let length = UTF8.width(scalar)
            merger.add(id(ofCharacter: scalar) ?? -1, start, length)
            start += length
        }
    }

    private func utf8(_ word: ArraySlice<UInt32>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(word.count * 2)
        for scalar in word { UTF8.append(scalar, to: &bytes) }
        return bytes
    }
}

extension UTF8 {
    /// Bytes of a scalar.
    static func width(_ scalar: UInt32) -> Int {
        scalar < 0x80 ? 1 : scalar < 0x800 ? 2 : scalar < 0x10000 ? 3 : 4
    }

    static func append(_ scalar: UInt32, to bytes: inout [UInt8]) {
        switch width(scalar) {
        case 1:
            bytes.append(UInt8(scalar))
        case 2:
            bytes.append(UInt8(0xC0 | scalar >> 6))
            bytes.append(UInt8(0x80 | scalar & 0x3F))
        case 3:
            bytes.append(UInt8(0xE0 | scalar >> 12))
            bytes.append(UInt8(0x80 | scalar >> 6 & 0x3F))
            bytes.append(UInt8(0x80 | scalar & 0x3F))
        default:
            bytes.append(UInt8(0xF0 | scalar >> 18))
            bytes.append(UInt8(0x80 | scalar >> 12 & 0x3F))
            bytes.append(UInt8(0x80 | scalar >> 6 & 0x3F))
            bytes.append(UInt8(0x80 | scalar & 0x3F))
        }
    }
}

/// Joins the symbols of one word. Symbols are a linked list in an array; possible joints wait in a
/// heap, and one whose symbols have changed since is passed over when its turn comes.
private struct Merger {
    struct Symbol {
        var id: Int32
        var start: Int
        var length: Int
        var previous: Int32
        var next: Int32
    }

    /// Two neighbours that may be joined: the left one, what they make, and how urgent it is.
    private struct Joint {
        var key: Float
        var rank: UInt32
        var left: Int32
        var id: Int32

        func isBefore(_ other: Joint) -> Bool {
            if key != other.key { return key < other.key }
            if rank != other.rank { return rank < other.rank }
            return left < other.left
        }
    }

    let bytes: [UInt8]
    private let model: BytePairModel
    private(set) var symbols: [Symbol] = []
    private var heap: [Joint] = []

    init(_ model: BytePairModel, bytes: [UInt8]) {
        self.model = model
        self.bytes = bytes
        symbols.reserveCapacity(bytes.count)
    }

    mutating func add(_ id: Int32, _ start: Int, _ length: Int) {
        let index = Int32(symbols.count)
        if index > 0 { symbols[Int(index) - 1].next = index }
        symbols.append(Symbol(id: id, start: start, length: length, previous: index - 1, next: -1))
    }

    mutating func run() {
        if symbols.count < 2 { return }
        for left in 0..<(symbols.count - 1) { consider(left) }
        while let joint = pop() {
            let left = Int(joint.left)
            guard symbols[left].length > 0, symbols[left].next >= 0, let now = self.joint(at: left),
                now.id == joint.id
            else { continue }
            let right = Int(symbols[left].next)
            symbols[left].id = joint.id
            symbols[left].length += symbols[right].length
            symbols[left].next = symbols[right].next
            symbols[right].length = 0
            if symbols[left].next >= 0 {
                symbols[Int(symbols[left].next)].previous = Int32(left)
                consider(left)
            }
            if symbols[left].previous >= 0 { consider(Int(symbols[left].previous)) }
        }
    }

    private func joint(at left: Int) -> Joint? {
        let one = symbols[left]
        let other = symbols[Int(one.next)]
        switch model.joining {
        case .merges(let merges):
            let pair =
                UInt64(UInt32(bitPattern: one.id)) << 32 | UInt64(UInt32(bitPattern: other.id))
            guard let found = merges[pair] else { return nil }
            return Joint(
                key: 0,
                rank: UInt32(found >> 32),
                left: Int32(left),
                id: Int32(truncatingIfNeeded: found)
            )
        case .scores(let scores):
            let id = bytes.withUnsafeBytes { bytes in
                model.table.id(
                    of: UnsafeRawBufferPointer(
                        rebasing: bytes[one.start..<(one.start + one.length + other.length)]
                    )
                )
            }
            guard let id, scores.indices.contains(Int(id)) else { return nil }
            return Joint(key: -scores[Int(id)], rank: 0, left: Int32(left), id: id)
        }
    }

    private mutating func consider(_ left: Int) {
        guard let joint = joint(at: left) else { return }
        heap.append(joint)
        var index = heap.count - 1
        while index > 0 {
            let parent = (index - 1) / 2
            if !heap[index].isBefore(heap[parent]) { break }
            heap.swapAt(index, parent)
            index = parent
        }
    }

    private mutating func pop() -> Joint? {
        guard let top = heap.first else { return nil }
        let last = heap.removeLast()
        if heap.isEmpty { return top }
        heap[0] = last
        var index = 0
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && heap[child].isBefore(heap[least]) {
                least = child
            }
            if least == index { return top }
            heap.swapAt(index, least)
            index = least
        }
    }
}
