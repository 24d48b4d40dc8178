/// An expression over Unicode scalars, matched by backtracking as Oniguruma does.
///
/// Tokenizers say with such expressions where words end. What is supported is what theirs use:
/// classes with ranges, negation, nesting and `&&`; `\p{…}`, `\s`, `\d`, `\w` and their opposites;
/// `\x{…}`; groups, `(?:…)`, `(?i:…)`, `(?>…)`; looks ahead and behind (behind: of one fixed length);
/// greedy, lazy and possessive repetition; `\A`, `\z`, `^`, `$`. Characters' categories are the
/// library's own tables, not the platform's.
///
/// Expressions come out of files that may be hostile: their length, depth and size are limited, and
/// so is the number of steps that a search may take.
struct Pattern: Sendable {
    /// What `Pattern.init` and searches may throw.
    enum Failure: Error, Equatable {
        /// The expression is wrong, or uses what is not supported: why, and at which scalar.
        case syntax(String, at: Int)
        /// Searches took more steps than a text of its length may.
        case steps
        /// A text became longer than any tokenizer makes it.
        case size

        /// In words.
        var reason: String {
            switch self {
            case .syntax(let reason, let place):
                "at character \(place) of the expression: \(reason)"
            case .steps: "looking for words or tokens takes more steps than its text may"
            case .size: "a text becomes more than 64 times as long on its way to words"
            }
        }
    }

    enum Instruction: Sendable {
        case set(Int)
        /// Try the first, then the second.
        case split(Int, Int)
        case jump(Int)
        /// A set repeated: at least, at most; greedy, or possessive.
        case run(Int, Int, Int, possessive: Bool)
        case textStart, textEnd, lineStart, lineEnd
        /// The instructions up to `end` match here, or do not; none of the text is taken.
        case look(negative: Bool, behind: Int, end: Int)
        /// The first match of the instructions up to `end`, no other.
        case atomic(end: Int)
        case accept
    }

    private(set) var program: [Instruction] = []
    private(set) var sets: [ScalarSet] = []

    init(_ expression: String) throws(Failure) {
        var parser = PatternParser(expression)
        let tree = try parser.parse()
        var compiler = PatternCompiler()
        try compiler.compile(tree)
        compiler.emit(.accept)
        program = compiler.program
        sets = compiler.sets
    }

    /// All matches from left to right; an empty match is taken where nothing else is.
    func matches(
        in text: ArraySlice<UInt32>,
        _ budget: inout SearchBudget
    ) throws(Failure) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var at = text.startIndex
        var machine = PatternMachine(self)
        machine.steps = budget.steps(for: text.count)
        var failure: Failure?
        text.withUnsafeBufferPointer { buffer in
            let base = text.startIndex
            while at - base <= buffer.count {
                do throws(Failure) {
                    guard let end = try machine.match(buffer, at: at - base) else {
                        at += 1
                        continue
                    }
                    if end > at - base {
                        found.append(at..<(end + base))
                        at = end + base
                    } else {
                        // The library reports an empty match between two characters, and goes on behind it.
                        if found.last?.upperBound != at { found.append(at..<at) }
                        at += 1
                    }
                } catch {
                    failure = error
                    return
                }
            }
        }
        if let failure { throw failure }
        try budget.settle(left: machine.steps)
        return found
    }
}

/// What all searches for one text may take together, whatever expressions a file has.
///
/// A search costs some steps for each scalar anyway; what it takes beyond that comes out of a store
/// that the searches share. Expressions in use never touch it.
struct SearchBudget {
    private static let stepsEach = 256
    private var store = 1 << 22

    /// How many steps a search may take.
    func steps(for scalars: Int) -> Int { store + Self.stepsEach * scalars }

    /// Accounts for a search that left so many of its steps.
    mutating func settle(left: Int) throws(Pattern.Failure) {
        if left < 0 { throw .steps }
        store = min(store, left)
    }

    /// Refuses a text of so many scalars that was made of another one.
    static func check(_ made: Int, from original: Int) throws(Pattern.Failure) {
        if made > 64 * original + 4096 { throw .size }
    }
}

/// The state of one search: what to try next when the present way fails.
struct PatternMachine {
    private let program: [Pattern.Instruction]
    private let sets: [ScalarSet]
    var steps = 0
    /// Where to go on: instruction, place; and the least place where a run may give back so far.
    private var stack: [(instruction: Int, place: Int, least: Int)] = []
    private static let mostWays = 1 << 22

    init(_ pattern: Pattern) {
        program = pattern.program
        sets = pattern.sets
    }

    /// The end of the match that begins at `start`, if there is one.
    mutating func match(
        _ text: UnsafeBufferPointer<UInt32>,
        at start: Int
    ) throws(Pattern.Failure) -> Int? {
        stack.removeAll(keepingCapacity: true)
        return try run(text, from: 0, to: program.count, at: start)
    }

    /// Runs instructions up to `end`, or to acceptance.
    private mutating func run(
        _ text: UnsafeBufferPointer<UInt32>,
        from first: Int,
        to end: Int,
        at start: Int
    ) throws(Pattern.Failure) -> Int? {
        let floor = stack.count
        var instruction = first
        var place = start
        while true {
            steps -= 1
            if steps < 0 || stack.count > Self.mostWays { throw .steps }
            var failed = false
            if instruction == end {
                stack.removeLast(stack.count - floor)
                return place
            }
            switch program[instruction] {
            case .set(let index):
                if place < text.count, sets[index].contains(text[place]) {
                    place += 1
                    instruction += 1
                } else {
                    failed = true
                }
            case .split(let now, let later):
                stack.append((later, place, place))
                instruction = now
            case .jump(let target):
                instruction = target
            case .run(let index, let least, let most, let possessive):
                var last = place
                let limit = most == .max ? text.count : min(text.count, place + most)
                while last < limit, sets[index].contains(text[last]) { last += 1 }
                steps -= last - place
                if last - place < least {
                    failed = true
                } else {
                    instruction += 1
                    if !possessive, last - place > least {
                        stack.append((instruction, last - 1, place + least))
                    }
                    place = last
                }
            case .textStart:
                if place == 0 { instruction += 1 } else { failed = true }
            case .textEnd:
                if place == text.count { instruction += 1 } else { failed = true }
            case .lineStart:
                if place == 0 || text[place - 1] == 0xA { instruction += 1 } else { failed = true }
            case .lineEnd:
                if place == text.count || text[place] == 0xA {
                    instruction += 1
                } else {
                    failed = true
                }
            case .look(let negative, let behind, let end):
                let from = place - behind
                let matched =
                    from >= 0 ? try run(text, from: instruction + 1, to: end, at: from) : nil
                if (matched != nil) != negative { instruction = end } else { failed = true }
            case .atomic(let end):
                if let after = try run(text, from: instruction + 1, to: end, at: place) {
                    place = after
                    instruction = end
                } else {
                    failed = true
                }
            case .accept:
                stack.removeLast(stack.count - floor)
                return place
            }
            if failed {
                guard stack.count > floor else { return nil }
                let top = stack[stack.count - 1]
                instruction = top.instruction
                place = top.place
                if top.place > top.least {
                    stack[stack.count - 1].place -= 1
                } else {
                    stack.removeLast()
                }
            }
        }
    }
}
