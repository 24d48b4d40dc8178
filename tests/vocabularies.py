"""Small tokenizers of every kind, GGUF files of their vocabularies, and llama.cpp's own ids."""

from __future__ import annotations

import ctypes
import json
import struct
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import support
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

from mlxquant.files.gguf_writer import build_gguf
from mlxquant.tokenizers import as_values

__all__ = [
    "SAMPLE",
    "TEXTS",
    "byte_level",
    "characters",
    "charsmap",
    "encoder",
    "llama_cpp",
    "save",
    "scored",
    "soup",
    "split",
    "unigram",
    "word_pieces",
    "write",
]

SAMPLE = """The quick brown fox jumps over the lazy dog, and it's what they've all said:
don't! We'LL see.
Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my
purse, I thought I would sail about a little and see the watery part of the world.
def main(argv: list[str]) -> int:\n    for i in range(1234567):\n        print(f"{i:>8}", end="\\n")
\t\tif (x != NULL && *x++ == 0x7F) { return foo->bar[3]; }  // TODO: why?\r\n\r\n
Äpfel, Öl und Übermut; l'été où les élèves naïfs dînaient à la crêperie; ¿Qué pasó, señor?
Съешь же ещё этих мягких французских булок. ПриветМир! Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
我想在apple工作1314151天～ 敏捷的棕色狐狸，跳过了那只懒狗。
日本語のテキストもカタカナも。 한국어 문장입니다.
हिन्दी में कुछ शब्द, कান্ত বাংলা, ไทยก็มี, العربية من اليمين إلى اليسار, עברית גם כן.
🚀 🦙.cpp 😶‍🌫️ ✅ ... 3.14 33 333 3333 33333 ½ Ⅷ ² $+<=>^`|~ ''''``"" ------=======
"""

#: texts that tokenizers disagree on
TEXTS = (
    "",
    " ",
    "  ",
    "\n \n\n\t \r\n \u3000\u00a0 x",
    "Hello",
    "   Hello  world   ",
    "I'Ve we'll 'M not 'tis' rock'n'roll ' ''s",
    "a1b22c333d4444 12345678 1.5e-10 ½⅓ ٣٤٥ ①②",
    "ПриветМир HelloWORLDFooBar ÉcoleÉCOLE ǅ ʰ ª",
    "e\u0301 n\u0303o \u0301start हिन्दी กำ\u0e34",
    "!!! ... ?!…。，、؟ <|x|> [[a]] {b} $5 +6 ~7 `8` ^9",
    "x\u200by\u200dz\ufeff\u00ad\u2028\u2029\x85 \x0b\x0c\x1c\x00\x7f",
    "🚀😶‍🌫️✅👩‍👩‍👧‍👦🇩🇪",
    "我想在apple工作1314151天～ 日本語 한국어",
    SAMPLE,
)

_MARKS = "'\"!?.,;:-_/\\|<>[](){}@#$%^&*+=~`…。，、～「」"
_SPACES = " \t\n\r\u00a0\u3000\u2003\u2028\x85\x0b"
_LETTERS = "aAbBeEsStTmMdDrRvVlLzZäßéÄчЩдξΩ我想天かカ한क\u093fท\u0e34ุعש\u0301\u0308ʰªǅ"
_DIGITS = "0123456789½٣Ⅷ²"
_EMOJI = "🚀🦙✅\u200d\ufe0f👩🇩"


def soup(*words: str) -> st.SearchStrategy[str]:
    """Text of everything that a tokenizer treats in its own way; `words` come whole."""
    characters = st.sampled_from(_MARKS + _SPACES + _LETTERS + _DIGITS + _EMOJI)
    runs = st.builds(lambda c, n: c * n, characters, st.integers(1, 9))
    known = st.sampled_from((*words, "'s", "'LL", "'re", "the", " and", "World", "  ", "\r\n"))
    return st.lists(st.one_of(characters, runs, known), max_size=24).map("".join)


def encoder(
    files: Mapping[str, str] | Path, parse_special: bool = True
) -> Callable[[str], list[int]]:
    """Text to ids by the `tokenizers` library, nothing added around it.

    Args:
        files: what `from_gguf` gave, or a folder.
        parse_special: whether special tokens are looked for in the text.
    """
    if isinstance(files, Path):
        tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    else:
        tokenizer = Tokenizer.from_str(files["tokenizer.json"])
    tokenizer.encode_special_tokens = not parse_special
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def save(folder: Path, tokenizer: Mapping[str, Any], **config: Any) -> Path:
    """A folder with this tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def write(folder: Path, files: Mapping[str, str], but: str = "") -> Path:
    """A folder with these files, one left out."""
    for name, text in files.items():
        if name != but:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def split(regex: str, **settings: Any) -> dict[str, Any]:
    """A Split step of a tokenizer.json."""
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return step | settings


def _trained(parts: Mapping[str, Any], trainer: Any, **special: int) -> dict[str, Any]:
    """A tokenizer.json trained on the sample; `parts` are its steps and its empty model."""
    empty = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    steps = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    tokenizer = Tokenizer.from_str(json.dumps(empty | steps | parts))
    tokenizer.train_from_iterator(SAMPLE.splitlines(keepends=True), trainer)
    result: dict[str, Any] = json.loads(tokenizer.to_str())
    return result


def added(id_: int, content: str, **flags: bool) -> dict[str, Any]:
    """An added token of a tokenizer.json, special unless `flags` say otherwise."""
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": id_, "content": content, "special": True} | dict.fromkeys(names, False) | flags


def _bpe(**settings: Any) -> dict[str, Any]:
    plain = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False}
    names = {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    more = {"byte_fallback": False, "ignore_merges": False, "vocab": {}, "merges": []}
    return plain | names | more | settings


def byte_level(
    pre_tokenizer: Mapping[str, Any], normalizer: Any = None, **settings: Any
) -> dict[str, Any]:
    """A byte-level BPE tokenizer.json with two special tokens and one that is none."""
    trainer = BpeTrainer(vocab_size=700, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    parts = {"pre_tokenizer": dict(pre_tokenizer), "normalizer": normalizer, "model": _bpe()}
    tokenizer = _trained(parts, trainer)
    count = len(tokenizer["model"]["vocab"])
    tokenizer["model"].update(settings)
    tokenizer["added_tokens"] = [
        added(count, "<|begin|>"),
        added(count + 1, "<|finish|>"),
        added(count + 2, "<tool>", special=False),
    ]
    return tokenizer


def characters(pre: str, *, fallback: bool = True, model: str = "gpt2") -> dict[str, Any]:
    """GGUF metadata of a BPE vocabulary whose tokens are made of characters.

    Args:
        pre: the pre-tokenizer's name; all but `whitespace` write spaces as U+2581.
        fallback: whether it has tokens for bytes.
        model: `gpt2`, `gemma4` or `whitespace`.
    """
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    words = model == "whitespace"
    cut = {"type": "WhitespaceSplit"} if words else split(r"[^\n]+|[\n]+")
    trainer = BpeTrainer(vocab_size=700, show_progress=False)
    parts = {"normalizer": None if words else escape, "pre_tokenizer": cut, "model": _bpe()}
    learned = _trained(parts, trainer)["model"]
    vocab = learned["vocab"]
    runs = ["\n", "\n\n", "\n\n\n"]
    tokens = ["<unk>", "<s>", "</s>", *sorted(vocab, key=vocab.__getitem__)]
    tokens += [run for run in runs if run not in vocab]
    tokens += ["<|user|>", "<tool>"]
    types = [3, 3, 3] + [1] * (len(tokens) - 5) + [3, 4]
    if fallback:
        tokens += [f"<0x{byte:02X}>" for byte in range(256)]
        types += [6] * 256
    merges = [" ".join(pair) for pair in learned["merges"]]
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [*merges, "\n \n", "\n\n \n"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def scored(space_prefix: bool = True) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece-style BPE vocabulary."""
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    trainer = BpeTrainer(vocab_size=700, show_progress=False)
    learned = _trained({"normalizer": normalizer, "model": _bpe()}, trainer)["model"]["vocab"]
    ordered = sorted(learned, key=learned.__getitem__)
    ordered.sort(key=lambda token: len(token) == 1)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *ordered]
    tokens += ["<|user|>", "<tool>"]
    types = [2, 3, 3] + [6] * 256 + [1] * len(ordered) + [3, 4]
    scores = [0.0] * 259 + [-float(i) for i in range(len(ordered))] + [-1000.0] * 2
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def unigram() -> dict[str, Any]:
    """A T5-like Unigram tokenizer.json."""
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    steps = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]}
    special = ["<pad>", "</s>", "<unk>"]
    trainer = UnigramTrainer(
        vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    model = {"type": "Unigram", "unk_id": None, "vocab": [], "byte_fallback": False}
    return _trained({"pre_tokenizer": steps, "model": model}, trainer)


def charsmap() -> bytes:
    """A precompiled normalization as SentencePiece has it, of what `soup` and `TEXTS` hold."""
    marks = [c for c in _LETTERS + "\u0303" if unicodedata.combining(c)]
    bases = _MARKS + _SPACES + _LETTERS + _DIGITS + "nſﬀ\u1100\u1161\u11a8"
    texts = {b + "".join(m) for n in range(3) for b in bases for m in product(marks, repeat=n)}
    texts |= {"\u1100\u1161", "\u1100\u1161\u11a8"}
    composed = {text: unicodedata.normalize("NFC", text) for text in texts}
    replaced = {t: c for t, c in composed.items() if len(c) < len(t)}
    replaced |= {text: unicodedata.normalize("NFKC", text) for text in bases}
    replaced |= {"\x01": "", "\x85": "\x85"} | dict.fromkeys("\t\n\r\x0b", " ")
    trie: dict[int, Any] = {}
    for text, new in replaced.items():
        if text != new:
            node = trie
            for byte in text.encode():
                node = node.setdefault(byte, {})
            node[0] = new.encode()
    # Each node has 256 units to itself; unit 0 of the file leads to the root's.
    units = [1 << 8 << 10] + [0] * 511
    ends = b""
    waiting = [(trie, 256)]
    while waiting:
        node, block = waiting.pop()
        for byte, below in node.items():
            if not byte:
                units[block], ends = len(ends), ends + below + b"\0"
                continue
            offset = (block + byte) ^ len(units)
            units[block + byte] = offset << 10 | (0 in below) << 8 | byte
            waiting.append((below, len(units)))
            units += [0] * 256
    packed = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(packed)) + packed + ends


def word_pieces() -> dict[str, Any]:
    """A BERT-like WordPiece tokenizer.json."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    around = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    return _trained(
        {
            "normalizer": normalizer | {"strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": around,
            "model": model | {"max_input_chars_per_word": 100, "vocab": {}},
        },
        trainer,
    )


#: llama.cpp's log, unread
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class llama_cpp:  # noqa: N801 - stands for the program
    """Real llama.cpp with a vocabulary alone: call it with a text for its ids.

    Args:
        metadata: `tokenizer.*` as Python values.
        folder: an empty one for the GGUF.
        name: `general.name`.
    """

    def __init__(self, metadata: Mapping[str, Any], folder: Path, name: str = "test") -> None:
        try:
            import llama_cpp as program
        except ImportError:
            support.unchecked("llama-cpp-python", "that llama.cpp gives the same token ids")
        self.program = program
        program.llama_log_set(_QUIET, None)
        shape = {
            "general.architecture": "llama",
            "general.name": name,
            "llama.block_count": 1,
            "llama.context_length": 64,
            "llama.embedding_length": 32,
            "llama.feed_forward_length": 32,
            "llama.attention.head_count": 1,
        }
        header, _ = build_gguf(as_values(shape | dict(metadata)), [])
        file = folder / "vocab.gguf"
        file.write_bytes(header)
        settings = program.llama_model_default_params()
        settings.vocab_only = True
        self.model = program.llama_model_load_from_file(str(file).encode(), settings)
        assert self.model, "llama.cpp does not load the vocabulary"
        self.vocab = program.llama_model_get_vocab(self.model)

    def __call__(
        self, text: str | bytes, parse_special: bool = True, add_special: bool = False
    ) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        room = 4 * len(raw) + 16
        tokens = (self.program.llama_token * room)()
        count = self.program.llama_tokenize(
            self.vocab, raw, len(raw), tokens, room, add_special, parse_special
        )
        assert count >= 0
        return list(tokens[:count])

    def close(self) -> None:
        self.program.llama_model_free(self.model)

    def __enter__(self) -> llama_cpp:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()


def same_ids(ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]]) -> None:
    """Hold two tokenizers against each other on `TEXTS`."""
    check(ours, theirs, TEXTS)


def check(
    ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]], texts: Iterable[str]
) -> None:
    """Hold two tokenizers against each other."""
    for text in texts:
        assert (text, ours(text)) == (text, theirs(text))
