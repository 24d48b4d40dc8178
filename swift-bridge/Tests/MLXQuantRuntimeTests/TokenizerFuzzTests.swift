import Foundation
import TestSupport
import Testing

@testable import MLXQuantFormats
@testable import MLXQuantRuntime

/// Texts with something for every step of a tokenizer.
private let texts = [
    "", " ", "Hello world's  end\n\n 12345\t", "e\u{301}\u{E9} \u{1F999} \u{2581}x\u{AC01}<s></s>",
    String(repeating: "a ", count: 300), String(repeating: "ab", count: 400),
    "<|im_start|>user\nx<|im_end|>",
]

/// Tokenizers of the kinds that the runtime reads, as small as they can be.
private let seeds: [JSON] = {
    let bytes = (0..<256).map { "\"<0x\(hexadecimal($0))>\": \($0 + 3)" }.joined(separator: ", ")
    let letters = ByteAlphabet.characters.enumerated().map { index, scalar in
        "\(JSON.string(String(Unicode.Scalar(scalar) ?? "?"))): \(index)"
    }.joined(separator: ", ")
    let added = """
        [{"id": 0, "content": "<s>", "special": true}, {"id": 1, "content": "</s>", "special": true,
        "lstrip": true, "rstrip": true}, {"id": 800, "content": "Name", "normalized": true,
        "single_word": true}]
        """
    let other = added.replacing("\"id\": 0", with: "\"id\": 700")
        .replacing("\"id\": 1", with: "\"id\": 701")
    let texts = [
        """
        {"added_tokens": \(added), "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"}, {"type": "Replace", "pattern":
        {"String": " "}, "content": "\u{2581}"}, {"type": "NFC"}, {"type": "Strip",
        "strip_left": true, "strip_right": true}]}, "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>",
        "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>":
        {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}, "decoder": {"type": "Sequence", "decoders":
        [{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type":
        "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
        "byte_fallback": true, "ignore_merges": false, "vocab": {"<s>": 0, "</s>": 1, "<unk>": 2,
        \(bytes), "a": 300, "b": 301, "ab": 302, "\u{2581}": 303, "\u{2581}a": 304, "\u{E9}": 305,
        "e\u{301}": 306}, "merges": ["a b", ["\u{2581}", "a"]]}}
        """,
        """
        {"added_tokens": \(other), "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type":
        "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex":
        "(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|\\\\s+(?!\\\\S)|\\\\s+"},
        "behavior": "Isolated", "invert": false}, {"type": "Digits", "individual_digits": true},
        {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "ByteLevel",
        "add_prefix_space": false, "use_regex": false}]}, "post_processor": {"type": "Sequence",
        "processors": [{"type": "ByteLevel"}, {"type": "RobertaProcessing", "sep": ["</s>", 1],
        "cls": ["<s>", 0]}]}, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab":
        {\(letters), "ab": 256, "\u{120}a": 257}, "merges": ["a b", "\u{120} a"]}}
        """,
        """
        {"added_tokens": \(added), "normalizer": null, "pre_tokenizer": {"type": "Metaspace",
        "replacement": "\u{2581}", "prepend_scheme": "first", "split": true}, "decoder": {"type":
        "Metaspace", "replacement": "\u{2581}"}, "model": {"vocab": {"\u{2581}": 2, "a": 3,
        "\u{2581}a": 4}, "merges": ["\u{2581} a"]}}
        """,
    ]
    return texts.compactMap { text in
        Array(text.utf8).withUnsafeBytes { bytes in
            var parser = JSONParser(bytes)
            return try? parser.whole()
        }
    }
}()

private func hexadecimal(_ byte: Int) -> String { String(byteToken(byte).dropFirst(3).dropLast()) }

/// Uses a tokenizer for all that there is to it.
private func use(_ tokenizer: Tokenizer) {
    for text in texts {
        for parse in [true, false] {
            do throws(FormatError) {
                let ids = try tokenizer.encode(text, parseSpecialTokens: parse)
                // no more than a token for each byte, what is around, and what steps may add
                #expect(ids.count <= 64 * 4 * text.utf8.count + 4 * 4096 + 2048)
                var stream = tokenizer.detokenizer(skipSpecialTokens: parse)
                _ = ids.prefix(2000).map { stream.append($0) }
                _ = stream.finish()
                _ = tokenizer.decode(Array(ids.prefix(2000)))
            } catch {
                #expect(isPrintable(error.description))
            }
        }
    }
    _ = tokenizer.decode([-1, 0, 1, .max, .min, tokenizer.idCount])
    _ = (tokenizer.bosID, tokenizer.eosID, tokenizer.endIDs, tokenizer.token(-1))
}

@Suite("Nothing but FormatError comes out of mutated tokenizers")
struct TokenizerFuzzTests {
    @Test("tokenizer.json")
    func tokenizers() throws {
        #expect(seeds.count == 3)
        let opened = try onSmallStack {
            var random = fuzzNumbers(11)
            var opened = 0
            for run in 0..<(600 * fuzzFactor) {
                let seed = random.pick(seeds)
                let value = run < seeds.count ? seeds[run] : mutated(seed, &random)
                guard case .object(let object) = value else { continue }
                do throws(FormatError) {
                    let (pipeline, special) = try TokenizerFile(object, path: "t").pipeline()
                    let tokenizer = Tokenizer(
                        pipeline: pipeline,
                        specialIDs: special,
                        endIDs: [],
                        specialTexts: [:],
                        chatTemplates: [:]
                    )
                    use(tokenizer)
                    opened += 1
                } catch {
                    #expect(isPrintable(error.description))
                    #expect(run >= seeds.count)
                }
            }
            return opened
        }
        #expect(opened > 60)
    }

    @Test("the files of a folder, byte for byte")
    func folders() throws {
        try withFolder { folder in
            let settings = """
                {"tokenizer_class": "GemmaTokenizerFast", "add_bos_token": true, "add_eos_token":
                false, "bos_token": "<s>", "eos_token": {"content": "</s>", "special": true},
                "chat_template": [{"name": "default", "template": "{{ messages }}"}]}
                """
            let files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
            let contents = [seeds[0].description, settings, settings].map { Array($0.utf8) }
            var random = fuzzNumbers(12)
            var opened = 0
            for (file, content) in zip(files, contents) {
                try write(content, folder.appendingPathComponent(file))
            }
            for _ in 0..<(200 * fuzzFactor) {
                let place = random.below(files.count)
                let file = folder.appendingPathComponent(files[place])
                let whole = contents[place]
                try write(TestSupport.mutated(whole, near: whole.count, &random), file)
                defer { try? write(whole, file) }
                do throws(FormatError) {
                    use(try Tokenizer(folder: folder.path))
                    opened += 1
                } catch {
                    #expect(isPrintable(error.description))
                }
            }
            #expect(opened > 4)
        }
    }
}
