/// What llama.cpp makes of tokens by their text, whatever a file says of them.
///
/// Facts: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp.
enum TokenHabits {
    /// Tokens that end a turn, or a text, in chat formats that are in use.
    static let turnEnds: Set<String> = [
        "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|eom|>", "<|im_end|>", "<end_of_turn>", "<turn|>",
        "<|end|>", "<|return|>", "<|call|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>",
        "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>", "<|role_end|>",
    ]

    /// Tokens that llama.cpp stops at and takes for control tokens, whatever their type.
    static let endsByText: Set<String> = [
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
        "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
        "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
        "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>", "[e~[",
    ]

    /// The keys of a GGUF file that name a token for filling in the middle, and the tokens that are
    /// one by their text where no key names any.
    static let fillInMiddle: [(keys: [String], texts: Set<String>, ends: Bool)] = [
        (
            ["fim_pre_token_id", "prefix_token_id"],
            [
                "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>",
                "<\u{FF5C}fim\u{2581}begin\u{FF5C}>", "<PRE>", "\u{2581}<PRE>", "<|code_prefix|>",
                "<|prefix|>",
            ],
            false
        ),
        (
            ["fim_suf_token_id", "suffix_token_id"],
            [
                "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>",
                "<\u{FF5C}fim\u{2581}hole\u{FF5C}>", "<SUF>", "\u{2581}<SUF>", "<|code_suffix|>",
                "<|suffix|>",
            ],
            false
        ),
        (
            ["fim_mid_token_id", "middle_token_id"],
            [
                "<|fim_middle|>", "<fim-middle>", "<fim_middle>",
                "<\u{FF5C}fim\u{2581}end\u{FF5C}>", "<MID>", "\u{2581}<MID>", "<|code_middle|>",
                "<|middle|>",
            ],
            false
        ),
        (["fim_pad_token_id"], ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
        (
            ["fim_rep_token_id"],
            ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"], true
        ),
        (["fim_sep_token_id"], ["<|file_sep|>"], true),
    ]

    /// Tokens that llama.cpp always finds in text.
    static let alwaysFound: Set<String> = [
        "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>",
    ]

    /// Special tokens of Phi-3 that do not swallow the whitespace behind them.
    private static let notStripped: Set<String> = ["<unk>", "<s>", "<|endoftext|>"]

    /// Those of the known ends of a turn that a vocabulary has.
    static func ends(in table: TokenTable, known: Set<String>) -> Set<String> {
        var ends = known.filter { table.id(of: $0) != nil }
        if endsMessageOnly(table) {
            // In gpt-oss's format <|end|> ends a message, and the answer is the message after it.
            ends.remove("<|end|>")
        }
        if ends.contains("<|tool_response>") {
            // Gemma 4 has </s> as a word of HTML.
            ends.remove("</s>")
        }
        return ends
    }

    /// Whether `<|end|>` ends one of several messages of an answer, not the answer.
    static func endsMessageOnly(_ table: TokenTable) -> Bool {
        func has(_ one: String, _ other: String) -> Bool {
            table.id(of: one) != nil || table.id(of: other) != nil
        }
        return has("<|call|>", "<|calls|>") && has("<|return|>", "<|flush|>")
    }

    /// Whether a token found in the text takes the whitespace before and behind it along. The model's
    /// name is in small letters.
    static func swallows(
        _ token: String,
        model: String,
        pre: String
    ) -> (left: Bool, right: Bool) {
        if pre.hasPrefix("jina-v2-") { return (token == "<mask>", false) }
        func has(_ part: String) -> Bool { model.utf8.hasPart(part.utf8) }
        if has("phi-3") || has("phi3") { return (false, !notStripped.contains(token)) }
        return (has("modern-bert") && token == "[MASK]", false)
    }
}

extension String.UTF8View {
    /// Whether other text is a part of this one.
    fileprivate func hasPart(_ other: String.UTF8View) -> Bool {
        indices.contains { self[$0...].starts(with: other) }
    }
}
