import MLXQuantFormats

/// How to generate. What is nil is left to the model: its authors' recommendation, or else greedy.
public struct GenerationOptions: Sendable, Hashable {
    /// Stop after so many tokens; nil for no limit.
    public var maxTokens: Int?
    /// Sampling temperature; 0 is greedy.
    public var temperature: Float?
    /// Sample from the most likely tokens that together have this probability; 1 is off.
    public var topP: Float?
    /// Sample from the so many likeliest; 0 is off.
    public var topK: Int?
    /// Drop tokens less likely than this times the likeliest; 0 is off.
    public var minP: Float?
    /// Divides the scores of the last 20 tokens; 1 is off.
    public var repetitionPenalty: Float?
    /// Of the random numbers: the same seed, the same text. Nil for another one each time.
    public var seed: UInt64?
    /// Prompt tokens in one pass; fewer take less memory.
    public var prefillStep: Int

    /// Options; see the properties of the same names.
    public init(
        maxTokens: Int? = 256,
        temperature: Float? = nil,
        topP: Float? = nil,
        topK: Int? = nil,
        minP: Float? = nil,
        repetitionPenalty: Float? = nil,
        seed: UInt64? = nil,
        prefillStep: Int = 256
    ) {
        self.maxTokens = maxTokens
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.seed = seed
        self.prefillStep = prefillStep
    }

    /// These options, and for what they leave open, others.
    func over(_ other: GenerationOptions) -> GenerationOptions {
        var result = self
        result.temperature = temperature ?? other.temperature
        result.topP = topP ?? other.topP
        result.topK = topK ?? other.topK
        result.minP = minP ?? other.minP
        result.repetitionPenalty = repetitionPenalty ?? other.repetitionPenalty
        return result
    }

    /// What a folder's generation_config.json recommends.
    init(recommendedBy folder: ModelFolder) throws(FormatError) {
        self.init()
        guard let config = folder.generationConfig else { return }
        let path = folder.path + "/generation_config.json"
        if config["do_sample"]?.bool == false {
            temperature = 0
            return
        }
        func number(_ key: String, _ range: ClosedRange<Double>) throws(FormatError) -> Float? {
            guard let value = config[key], !value.isNull else { return nil }
            guard let number = value.double, range.contains(number) else {
                throw FormatError(
                    .file,
                    file: path,
                    field: key,
                    reason: "\(value): a number from \(range.lowerBound) to \(range.upperBound)"
                        + " expected"
                )
            }
            return Float(number)
        }
        temperature = try number("temperature", 0...100)
        topP = try number("top_p", 0...1)
        minP = try number("min_p", 0...1)
        topK = try number("top_k", 0...1e9).map { Int($0) }
        repetitionPenalty = try number("repetition_penalty", 0...100)
        if repetitionPenalty == 0 {
            let reason = "0: more than 0 expected; 1 switches it off"
            throw FormatError(.file, file: path, field: "repetition_penalty", reason: reason)
        }
        if temperature == nil { temperature = config["do_sample"]?.bool == true ? 1 : 0 }
    }

    /// Refuses values out of their ranges.
    func check() throws(GenerationError) {
        func refuse(_ name: String, _ text: String) -> GenerationError {
            .request("\(name): \(text)")
        }
        if let maxTokens, maxTokens < 1 { throw refuse("maxTokens", "at least 1, or none") }
        if let temperature, !(0...100).contains(temperature) {
            throw refuse("temperature", "a number from 0 (greedy) to 100")
        }
        if let topP, !(0...1).contains(topP) { throw refuse("topP", "a probability, 0 to 1") }
        if let minP, !(0...1).contains(minP) { throw refuse("minP", "a probability, 0 to 1") }
        if let topK, topK < 0 { throw refuse("topK", "a number of tokens; 0 switches it off") }
        if let repetitionPenalty, !(repetitionPenalty > 0 && repetitionPenalty <= 100) {
            throw refuse("repetitionPenalty", "more than 0, at most 100")
        }
        if prefillStep < 1 { throw refuse("prefillStep", "at least 1 token") }
    }
}
