/// Makes instructions of what an expression says.
struct PatternCompiler {
    private(set) var program: [Pattern.Instruction] = []
    private(set) var sets: [ScalarSet] = []

    static let mostInstructions = 1 << 16
    /// Parts that are looked at: what takes nothing of a text makes no instruction, however often.
    private var looks = 1 << 18

    mutating func emit(_ instruction: Pattern.Instruction) { program.append(instruction) }

    mutating func compile(_ node: PatternNode) throws(Pattern.Failure) {
        looks -= 1
        if program.count > Self.mostInstructions || looks < 0 {
            throw .syntax("more than \(Self.mostInstructions) steps", at: 0)
        }
        switch node {
        case .set(let set):
            emit(.set(index(of: set)))
        case .sequence(let parts):
            for part in parts { try compile(part) }
        case .choice(let parts):
            try compileChoice(parts)
        case .repeated(let part, let least, let most, let kind):
            try compileRepetition(of: part, least, most, kind)
        case .look(let part, let negative, let behind):
            guard let width = behind ? part.width : 0 else {
                throw .syntax("a look behind of no fixed length", at: 0)
            }
            try compileScope(part) { .look(negative: negative, behind: width, end: $0) }
        case .atomic(let part):
            try compileScope(part) { .atomic(end: $0) }
        case .anchor(let instruction):
            emit(instruction)
        }
    }

    private mutating func compileScope(
        _ part: PatternNode,
        _ make: (Int) -> Pattern.Instruction
    ) throws(Pattern.Failure) {
        let start = program.count
        emit(.accept)
        try compile(part)
        program[start] = make(program.count)
    }

    private mutating func compileChoice(_ parts: [PatternNode]) throws(Pattern.Failure) {
        var ends: [Int] = []
        for (index, part) in parts.enumerated() {
            let start = program.count
            if index < parts.count - 1 { emit(.accept) }
            try compile(part)
            if index < parts.count - 1 {
                ends.append(program.count)
                emit(.accept)
                program[start] = .split(start + 1, program.count)
            }
        }
        for end in ends { program[end] = .jump(program.count) }
    }

    private mutating func compileRepetition(
        of part: PatternNode,
        _ least: Int,
        _ most: Int,
        _ kind: PatternNode.Repetition
    ) throws(Pattern.Failure) {
        if let set = singleSet(part), kind != .lazy {
            emit(.run(index(of: set), least, most, possessive: kind == .possessive))
            return
        }
        if kind == .possessive {
            try compileScope(.repeated(part, least: least, most: most, .greedy)) {
                .atomic(end: $0)
            }
            return
        }
        for _ in 0..<least { try compile(part) }
        func way(_ inside: Int, _ after: Int) -> Pattern.Instruction {
            kind == .lazy ? .split(after, inside) : .split(inside, after)
        }
        if most == .max {
            // A part that may take nothing would go round for ever.
            if part.width == 0 || canBeEmpty(part) {
                throw .syntax("a repetition without end of what may be empty", at: 0)
            }
            let start = program.count
            emit(.accept)
            try compile(part)
            emit(.jump(start))
            program[start] = way(start + 1, program.count)
            return
        }
        var starts: [Int] = []
        for _ in least..<max(most, least) {
            starts.append(program.count)
            emit(.accept)
            try compile(part)
        }
        for start in starts { program[start] = way(start + 1, program.count) }
    }

    private func canBeEmpty(_ node: PatternNode) -> Bool {
        switch node {
        case .set: return false
        case .sequence(let parts): return parts.allSatisfy(canBeEmpty)
        case .choice(let parts): return parts.contains(where: canBeEmpty)
        case .repeated(let part, let least, _, _): return least == 0 || canBeEmpty(part)
        case .look, .anchor: return true
        case .atomic(let part): return canBeEmpty(part)
        }
    }

    private func singleSet(_ node: PatternNode) -> ScalarSet? {
        switch node {
        case .set(let set): return set
        case .sequence(let parts) where parts.count == 1: return singleSet(parts[0])
        default: return nil
        }
    }

    private mutating func index(of set: ScalarSet) -> Int {
        if let found = sets.firstIndex(of: set) { return found }
        sets.append(set)
        return sets.count - 1
    }
}
