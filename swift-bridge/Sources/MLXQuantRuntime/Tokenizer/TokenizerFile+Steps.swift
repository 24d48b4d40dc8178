import MLXQuantFormats

/// What a `tokenizer.json` says of the steps before and behind the model.
extension TokenizerFile {
    /// Steps of one kind: several times what any tokenizer has.
    private static let mostSteps = 64

    /// The steps of a part of the file, sequences of them laid out flat; `inside` is the member that
    /// a sequence has its own in.
    private func steps(_ part: String, inside: String) throws(FormatError)
        -> [(kind: String, step: JSON)]
    {
        var found: [(kind: String, step: JSON)] = []
        var expressions = 0
        func add(_ step: JSON?, depth: Int) throws(FormatError) {
            guard let step, !step.isNull else { return }
            let kind = step["type"]?.string ?? "?"
            if kind != "Sequence" {
                if found.count == Self.mostSteps {
                    throw wrong(part, "more than \(Self.mostSteps) steps")
                }
                expressions += step["pattern"]?["Regex"]?.string?.unicodeScalars.count ?? 0
                if expressions > PatternParser.longest {
                    throw wrong(
                        part,
                        "expressions of more than \(PatternParser.longest) characters"
                    )
                }
                found.append((kind, step))
                return
            }
            if depth == 8 { throw wrong(part, "sequences nested too deep") }
            for step in step[inside]?.array ?? [] { try add(step, depth: depth + 1) }
        }
        try add(root[part], depth: 0)
        return found
    }

    func normalizer() throws(FormatError) -> [NormalizerStep] {
        var steps: [NormalizerStep] = []
        for (kind, step) in try self.steps("normalizer", inside: "normalizers") {
            switch kind {
            case "NFC": steps.append(.composed)
            case "NFD": steps.append(.decomposed)
            case "Lowercase": steps.append(.lowercase)
            case "Prepend":
                steps.append(.prepend(scalars(step["prepend"]?.string ?? "")))
            case "Replace":
                let wanted = try wanted(step["pattern"], "normalizer.pattern")
                steps.append(.replace(wanted, with: scalars(step["content"]?.string ?? "")))
            case "Strip":
                let left = step["strip_left"]?.bool ?? false
                steps.append(.strip(left: left, right: step["strip_right"]?.bool ?? false))
            default: throw wrong("normalizer.type", "\(kind) is not supported")
            }
        }
        return steps
    }

    func cuts() throws(FormatError) -> [CuttingStep] {
        var steps: [CuttingStep] = []
        for (kind, step) in try self.steps("pre_tokenizer", inside: "pretokenizers") {
            switch kind {
            case "Split":
                let wanted = try wanted(step["pattern"], "pre_tokenizer.pattern")
                let inverted = step["invert"]?.bool ?? false
                steps.append(.split(wanted, try behavior(step), inverted: inverted))
            case "ByteLevel":
                if step["add_prefix_space"]?.bool ?? true { steps.append(.spaceBefore) }
                if step["use_regex"]?.bool ?? true {
                    let words = try pattern(wordsOfGPT2)
                    steps.append(.split(.pattern(words), .isolated, inverted: false))
                }
                steps.append(.bytes)
            case "Metaspace":
                steps.append(try metaspace(step))
            case "Digits":
                steps.append(.digits(individual: step["individual_digits"]?.bool ?? false))
            case "Punctuation":
                steps.append(.punctuation(try behavior(step)))
            case "WhitespaceSplit":
                let space = try pattern("\\s+")
                steps.append(.split(.pattern(space), .removed, inverted: false))
            case "Whitespace":
                let words = try pattern("\\w+|[^\\w\\s]+")
                steps.append(.split(.pattern(words), .removed, inverted: true))
            default: throw wrong("pre_tokenizer.type", "\(kind) is not supported")
            }
        }
        return steps
    }

    private func metaspace(_ step: JSON) throws(FormatError) -> CuttingStep {
        let replacement = scalars(step["replacement"]?.string ?? "\u{2581}")
        let scheme = step["prepend_scheme"]?.string ?? "always"
        guard replacement.count == 1, let prefix = CuttingStep.Prefix(rawValue: scheme) else {
            throw wrong("pre_tokenizer", "a Metaspace without a character or with another scheme")
        }
        let adds = step["add_prefix_space"]?.bool ?? true
        return .spaces(
            replacement[0],
            adds ? prefix : .never,
            splits: step["split"]?.bool ?? true
        )
    }

    private func behavior(_ step: JSON) throws(FormatError) -> CuttingStep.Behavior {
        let name = step["behavior"]?.string ?? "Isolated"
        guard let behavior = CuttingStep.Behavior(rawValue: name) else {
            throw wrong("pre_tokenizer.behavior", "\(quoted(name)) is not supported")
        }
        return behavior
    }

    private func wanted(_ pattern: JSON?, _ field: String) throws(FormatError) -> Wanted {
        if let literal = pattern?["String"]?.string, !literal.isEmpty {
            return .literal(scalars(literal))
        }
        guard let regex = pattern?["Regex"]?.string else {
            throw wrong(field, "expected a String or a Regex")
        }
        return .pattern(try self.pattern(regex, field))
    }

    private func pattern(_ regex: String, _ field: String = "pre_tokenizer") throws(FormatError)
        -> Pattern
    {
        do throws(Pattern.Failure) {
            return try Pattern(regex)
        } catch {
            throw wrong(field, error.reason)
        }
    }

    func readAround(into pipeline: inout Tokenizer.Pipeline) throws(FormatError) {
        for (kind, step) in try steps("post_processor", inside: "processors") {
            switch kind {
            case "ByteLevel": break  // of offsets only
            case "BertProcessing", "RobertaProcessing":
                pipeline.before.insert(try pair(step["cls"]), at: 0)
                pipeline.after.append(try pair(step["sep"]))
            case "TemplateProcessing":
                let (before, after) = try around(step)
                pipeline.before = before + pipeline.before
                pipeline.after += after
            default: throw wrong("post_processor.type", "\(kind) is not supported")
            }
        }
    }

    /// The ids of a `TemplateProcessing` before and behind a single text.
    private func around(_ step: JSON) throws(FormatError) -> (before: [Int], after: [Int]) {
        var sides: [[Int]] = [[], []]
        var side = 0
        for part in step["single"]?.array ?? [] {
            if part["Sequence"] != nil {
                side = 1
                continue
            }
            let name = part["SpecialToken"]?["id"]?.string ?? ""
            guard let ids = step["special_tokens"]?[name]?["ids"]?.array else {
                throw wrong("post_processor.special_tokens", "\(quoted(name)) is missing")
            }
            for id in ids {
                guard let id = id.int, id >= 0 else {
                    throw wrong("post_processor.special_tokens", "an id that is none")
                }
                sides[side].append(id)
            }
            if sides[side].count > 1024 {
                throw wrong("post_processor.single", "more than 1024 tokens around a text")
            }
        }
        return (sides[0], sides[1])
    }

    private func pair(_ value: JSON?) throws(FormatError) -> Int {
        guard let pair = value?.array, pair.count == 2, let id = pair[1].int, id >= 0 else {
            throw wrong("post_processor", "expected a token and its id")
        }
        return id
    }

    func readDecoders(into decoding: inout Tokenizer.Decoding) throws(FormatError) {
        for (kind, step) in try steps("decoder", inside: "decoders") {
            switch kind {
            case "ByteLevel": decoding.isByteLevel = true
            case "ByteFallback": decoding.hasByteTokens = true
            case "Fuse": break  // texts are joined in any case
            case "Replace":
                guard step["pattern"]?["String"]?.string == "\u{2581}",
                    step["content"]?.string == " "
                else { throw wrong("decoder", "a Replace of anything but ▁ by a space") }
                decoding.unescapesSpaces = true
            case "Metaspace":
                decoding.unescapesSpaces = true
                let adds = step["add_prefix_space"]?.bool ?? true
                let scheme = step["prepend_scheme"]?.string ?? "always"
                if adds, scheme != "never" { decoding.strippedSpaces = 1 }
            case "Strip":
                guard step["content"]?.string == " ", step["stop"]?.int == 0 else {
                    throw wrong("decoder", "a Strip of anything but spaces at the beginning")
                }
                decoding.strippedSpaces = step["start"]?.int ?? 0
            default: throw wrong("decoder.type", "\(kind) is not supported")
            }
        }
    }

    private func scalars(_ text: String) -> [UInt32] { text.unicodeScalars.map(\.value) }
}
