"""Broken GGUF files, as data: what the file is, and what its one-line error must contain.

FILES cannot be opened; MODELS and VOCABULARIES can, and are refused by what they claim; SPLITS are
sets of parts, of which the first that is written is opened.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from hostile.gguf_building import (
    MODEL,
    TENSORS,
    TOKENS,
    VOCABULARY,
    Metadata,
    Tensor,
    gguf,
    tensor,
    text,
    value,
)

Case = tuple[Callable[[], bytes], tuple[str, ...]]

HUGE = 2**61
MOST = 2**64 - 1


def key(name: str | bytes, raw: bytes = b"", kind: str = "raw", content: Any = None) -> bytes:
    """A file of a single key, and room behind it."""
    body = text(name) + (raw if kind == "raw" else value(kind, content))
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + body + bytes(64)


def array(item: int, count: int, items: bytes = b"") -> bytes:
    """An array's type, item type and count."""
    return struct.pack("<IIQ", 9, item, count) + items


def first(
    name: str | bytes = "token_embd.weight",
    dims: Sequence[int] = (32, 8),
    type: int = 0,
    offset: int = 0,
    content: bytes = bytes(1024),
) -> bytes:
    """A file of one tensor of these properties."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + tensor(name, dims, type, offset)
    return header + bytes(-len(header) % 32) + content


def with_(**changes: Any) -> Metadata:
    """The small model's metadata, changed; `__` stands for a dot, None removes a key."""
    changed = {name.replace("__", "."): pair for name, pair in changes.items()}
    return {name: pair for name, pair in (MODEL | VOCABULARY | changed).items() if pair is not None}


def aligned(pair: tuple[str, Any]) -> bytes:
    """A file with this as its alignment."""
    return gguf(with_(general__alignment=pair))


def moved(offset: int) -> bytes:
    """A file whose second tensor claims to be at `offset`."""
    embedding, query = TENSORS
    data = gguf()
    old, new = tensor(*query[:4]), tensor(*query[:3], offset)
    assert data.count(old) == 1
    return data.replace(old, new)


FILES: dict[str, Case] = {
    # 1
    "empty": (lambda: b"", ("magic @0", "empty file")),
    "the magic alone": (lambda: b"GGUF", ("truncated header", "4 bytes", "24")),
    "four bytes": (lambda: b"\1\2\3\4", ("truncated header", "4 bytes", "24")),
    "cut in the counts": (lambda: gguf(cut=20), ("truncated header", "20 bytes")),
    "cut in the first key": (lambda: gguf(cut=40), ("tensor count @8", "truncated")),
    "cut in a key": (lambda: gguf(cut=240), ("key 5 @", "bad length: 26 bytes", "left")),
    "cut in an array": (lambda: gguf(cut=560), ("key 'tokenizer.ggml.scores'", "25 left")),
    "cut in a tensor": (lambda: gguf(cut=765), ("tensor 'token_embd.weight'", "truncated header")),
    "cut behind a tensor": (lambda: gguf(cut=800), ("tensor 'token_embd.weight'", "truncated")),
    "cut before the data": (lambda: gguf(cut=850), ("truncated",)),
    "cut in the data": (
        lambda: gguf(cut=2000),
        ("tensor 'blk.0.attn_q.weight' @1888", "truncated"),
    ),
    # 2
    "HTML": (lambda: b"<!doctype html><html>" + bytes(99), ("this is an HTML page",)),
    "LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        ("this is a Git LFS pointer: run git lfs pull",),
    ),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(99), ("this is a ZIP archive",)),
    "pickle": (lambda: b"\x80\x02}q" + bytes(99), ("this is a pickle",)),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), ("this is a PNG image",)),
    "another magic": (lambda: gguf(magic=b"GGML"), ("magic @0", "no GGUF file", "b'GGML'")),
    "zeros": (lambda: bytes(4096), ("zero bytes from its start",)),
    # 3
    "version 0": (lambda: gguf(version=0), ("version @4: unsupported version 0",)),
    "version 1": (lambda: gguf(version=1), ("unsupported version 1", "convert the model anew")),
    "version 99": (lambda: gguf(version=99), ("unsupported version 99",)),
    "big-endian": (
        lambda: gguf(version=3 << 24),
        ("version @4: unsupported version 50331648", "byte-swapped"),
    ),
    "byte-swapped magic": (
        lambda: gguf(magic=b"FUGG"),
        ("magic @0", "byte-swapped GGUF file", "unsupported version"),
    ),
    # 4
    "2^61 tensors": (lambda: gguf(count=HUGE), ("tensor count @8", str(HUGE), "exceeds the file")),
    "2^61 keys": (lambda: gguf(keys=HUGE), ("key count @16", str(HUGE), "exceeds the file")),
    "2^64-1 tensors": (lambda: gguf(count=MOST), ("tensor count @8", "exceeds the file")),
    "2^64-1 keys": (lambda: gguf(keys=MOST), ("key count @16", "exceeds the file")),
    "tensors one too many": (lambda: gguf(count=3), ("tensor 2",)),
    "tensors beyond the limit": (
        lambda: gguf(count=100_001) + bytes(3_300_033),
        ("tensor count @8: 100001, the limit is 100000",),
    ),
    "keys beyond the limit": (
        lambda: gguf(keys=100_001) + bytes(1_400_014),
        ("key count @16: 100001, the limit is 100000",),
    ),
    # 5
    "a key of 2^64-1 bytes": (
        lambda: struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, MOST) + bytes(64),
        ("key 0 @24", "bad length", str(MOST)),
    ),
    "a key of 65,536 bytes": (lambda: key("k" * 65_536), ("bad length: 65536", "limit is 65535")),
    "a text of 2^64-1 bytes": (
        lambda: key("k", struct.pack("<IQ", 8, MOST)),
        ("key 'k' @37", "bad length", str(MOST), "64 left"),
    ),
    "a text that is not UTF-8": (lambda: key("k", kind="str", content=b"a\xff"), ("not UTF-8",)),
    "an array of 2^64-1 numbers": (lambda: key("k", array(5, MOST)), ("key 'k' @37: bad array",)),
    "an array of 2^64-1 texts": (lambda: key("k", array(8, MOST)), ("bad array", str(MOST))),
    "an array of 2^61 arrays": (lambda: key("k", array(9, HUGE)), ("bad array", str(HUGE))),
    "a text of 2^64-1 bytes in an array": (
        lambda: key("k", array(8, 2, text("a") + struct.pack("<Q", MOST))),
        ("key 'k' @58", "bad length", str(MOST), "text 1 of 2"),
    ),
    "a text of 2^63-1 bytes in an array": (
        lambda: key("k", array(8, 3, text("a") + struct.pack("<Q", 2**63 - 1))),
        ("key 'k' @58", "bad length", "text 1 of 3"),
    ),
    "an array whose texts go on behind the end": (
        lambda: key("k", array(8, 15, text("t" * 60))),
        ("key 'k'", "text 9 of 15"),
    ),
    "arrays 10^5 deep": (
        lambda: key("k", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 10**5),
        ("key 'k'", "bad array: nested more than 4 deep"),
    ),
    "texts beyond the limit": (
        lambda: key("k", array(8, 2**22 + 1, bytes(8 * (2**22 + 1)))),
        ("key 'k'", "bad array: more than 4194304"),
    ),
    "value type 255": (lambda: key("k", struct.pack("<I", 255)), ("key 'k' @33", "value type 255")),
    "item type 255": (lambda: key("k", array(255, 1)), ("bad array: unknown item type 255",)),
    "a bool of 2": (lambda: key("k", struct.pack("<IB", 7, 2)), ("bad bool",)),
    "an array with a bool of 2": (lambda: key("k", array(7, 3, b"\0\1\2")), ("bad bool",)),
    # 6
    "an empty key": (lambda: key("", kind="u8", content=1), ("key 0 @24", "bad name: empty")),
    "a duplicate key": (
        lambda: struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + (text("k") + value("u8", 1)) * 2,
        ("key 'k'", "bad name: duplicate key"),
    ),
    "a key with a NUL": (lambda: key("a\0b"), ("bad name", "'a\\x00b'")),
    "a key with an escape": (lambda: key("\x1b[31m"), ("bad name",)),
    "a key with ../": (lambda: key("../../etc"), ("bad name", "'../'")),
    "a key that is not UTF-8": (lambda: key(b"a\xff"), ("key 0 @33", "not UTF-8")),
    "a duplicate tensor": (
        lambda: gguf(tensors=[TENSORS[0], (TENSORS[0][0], (32, 8), 0, 1024, bytes(1024))]),
        ("tensor 'token_embd.weight'", "bad name: duplicate name"),
    ),
    "a tensor without a name": (lambda: first(""), ("tensor 0 @24", "bad name: empty")),
    "a tensor with a NUL": (lambda: first("a\0"), ("tensor 0 'a\\x00'", "bad name")),
    "a tensor with ../": (lambda: first("a/../b"), ("bad name", "'../'")),
    "a tensor with a name of 256 bytes": (lambda: first("a" * 256), ("bad length: 256",)),
    # 7
    "alignment 0": (lambda: aligned(("u32", 0)), ("general.alignment @", "bad alignment: 0")),
    "alignment 3": (lambda: aligned(("u32", 3)), ("bad alignment: 3",)),
    "alignment 2^31": (lambda: aligned(("u32", 2**31)), ("bad alignment: 2147483648",)),
    "alignment 2^31 of 64 bits": (lambda: aligned(("u64", 32)), ("bad alignment", "u64, u32")),
    "alignment in words": (lambda: aligned(("str", "32")), ("bad alignment", "type str")),
    "alignments": (lambda: aligned(("[u32]", [32])), ("bad alignment", "[u32]")),
    # 8
    "5 dimensions": (lambda: first(dims=(2, 2, 2, 2, 2)), ("size overflow: 5 dimensions",)),
    "2^32-1 dimensions": (
        lambda: first().replace(struct.pack("<IQ", 2, 32), struct.pack("<IQ", 2**32 - 1, 32)),
        ("size overflow: 4294967295 dimensions", "1 to 4"),
    ),
    "no dimension": (lambda: first(dims=()), ("size overflow: 0 dimensions, 1 to 4 expected",)),
    "a dimension 0": (lambda: first(dims=(32, 0)), ("size overflow: a dimension is 0",)),
    "a product that wraps": (
        lambda: first(dims=(4194305, 4194305, 211106198978564), content=bytes(64)),
        ("tensor 'token_embd.weight' @49", "size overflow"),
    ),
    "2^42+1 weights": (lambda: first(dims=(2**42 + 1,)), ("size overflow", "truncated")),
    "2^63-1 times 2": (lambda: first(dims=(2**63 - 1, 2)), ("size overflow",)),
    "2^64-1 rows": (lambda: first(dims=(32, MOST)), ("size overflow",)),
    "bytes that wrap": (lambda: first(dims=(2**62,)), ("size overflow", str(2**64))),
    # 9
    "offset 2^40": (lambda: moved(2**40), ("tensor 'blk.0.attn_q.weight'", "out of range")),
    "offset past the end": (lambda: moved(4096), ("out of range: offset 4096",)),
    "offset 2^64-32": (lambda: moved(2**64 - 32), ("out of range",)),
    "overlapping": (lambda: moved(992), ("out of range", "they overlap")),
    "the same place": (lambda: moved(0), ("out of range", "they overlap")),
    "misaligned": (lambda: moved(1025), ("out of range: offset 1025", "multiple", "32")),
    "a hole": (lambda: moved(1056), ("out of range", "a hole of 32 bytes")),
    "a first tensor that is not first": (lambda: first(offset=32), ("a hole of 32 bytes",)),
    # 10
    "tensor type 43": (lambda: first(type=43), ("unsupported tensor: type 43 is unknown",)),
    "tensor type 2^32-1": (lambda: first(type=2**32 - 1), ("unsupported tensor", "unknown")),
    "a retired type": (lambda: first(type=31), ("type 31 (Q4_0_4_4)", "convert the model anew")),
    "a retired type of old": (lambda: first(type=4), ("type 4 (Q4_2)",)),
    "a row of no whole blocks": (
        lambda: first(dims=(100, 8), type=12),
        ("unsupported tensor: rows of 100 weights", "Q4_K's block of 256"),
    ),
    "blocks over several rows": (
        lambda: first(dims=(16, 2), type=2),
        ("unsupported tensor: rows of 16 weights", "32"),
    ),
}


def model(**changes: Any) -> Callable[[], bytes]:
    """A whole file whose metadata are changed."""
    return lambda: gguf(with_(**changes))


def query(**changes: Any) -> Callable[[], bytes]:
    """As `model`, with tensors of no layer but 0."""
    return model(**{f"llama__{name}": pair for name, pair in changes.items()})


def named(name: str) -> Callable[[], bytes]:
    """A whole file whose second tensor has another name."""
    renamed: Tensor = (name, *TENSORS[1][1:])
    return lambda: gguf(tensors=[TENSORS[0], renamed])


MODELS: dict[str, Case] = {
    # 11
    "no architecture": (model(general__architecture=None), ("general.architecture", "implausible")),
    "no layers": (query(block_count=("u32", 0)), ("llama.block_count @", "implausible model: 0")),
    "10^9 layers": (query(block_count=("u32", 10**9)), ("implausible model: 1000000000",)),
    "more layers than tensors": (query(block_count=("u32", 9)), ("9 layers, but 2 tensors",)),
    "layers that are not said": (query(block_count=None), ("llama.block_count", "missing")),
    "layers in words": (query(block_count=("str", "1")), ("implausible model: '1'",)),
    "a layer too many": (named("blk.1.attn_q.weight"), ("1 layers", "'blk.1.attn_q.weight'")),
    "no heads": (
        query(attention__head_count=("u32", 0)),
        ("llama.attention.head_count @", "implausible model: 0 heads"),
    ),
    "no heads in any layer": (query(attention__head_count=("[u32]", [0])), ("0 heads",)),
    "heads of no layer": (query(attention__head_count=("[u32]", [])), ("0 values for 1 layers",)),
    "heads in words": (query(attention__head_count=("[str]", ["2"])), ("'2' for layer 0",)),
    "no width": (query(embedding_length=("u32", 0)), ("llama.embedding_length", "implausible")),
    "width -1": (query(embedding_length=("i32", -1)), ("implausible model: -1",)),
    "width 2^32-1": (query(embedding_length=("u32", 2**32 - 1)), ("implausible model",)),
    "no context": (query(context_length=("u32", 0)), ("llama.context_length", "implausible")),
    "NaN epsilon": (
        query(attention__layer_norm_rms_epsilon=("f32", float("nan"))),
        ("implausible model: nan",),
    ),
    "Inf rope base": (query(rope__freq_base=("f32", float("inf"))), ("implausible model: inf",)),
    "more experts used than there are": (
        query(expert_count=("u32", 4), expert_used_count=("u32", 8)),
        ("llama.expert_used_count", "8 experts a token of 4"),
    ),
}


def vocabulary(**changes: Any) -> Callable[[], bytes]:
    """A whole file whose vocabulary is changed."""
    return model(**{f"tokenizer__ggml__{name}": pair for name, pair in changes.items()})


def tokens(**changes: Any) -> Callable[[], bytes]:
    """A whole file whose tokens are changed: `t3` is the fourth."""
    listed: list[Any] = list(TOKENS)
    for place, token in changes.items():
        listed[int(place[1:])] = token
    return vocabulary(tokens=("[str]", listed))


TYPES: list[int] = VOCABULARY["tokenizer.ggml.token_type"][1]
SCORES: list[float] = VOCABULARY["tokenizer.ggml.scores"][1]

VOCABULARIES: dict[str, Case] = {
    # 12
    "a byte that is none": (tokens(t3="<0xZZ>"), ("bad vocabulary: token 3, '<0xZZ>'", "<0x0A>")),
    "a byte of no type": (
        lambda: gguf(
            with_(
                tokenizer__ggml__token_type=None,
                tokenizer__ggml__tokens=("[str]", [*TOKENS[:7], "<0xZZ>"]),
            )
        ),
        ("bad vocabulary: token 7",),
    ),
    "a word of a byte's type": (
        vocabulary(token_type=("[i32]", [*TYPES[:7], 6])),
        ("bad vocabulary: token 7, 'c'",),
    ),
    "a token that is not UTF-8": (tokens(t4=b"\xff"), ("bad vocabulary: text 4 is not UTF-8",)),
    "no tokens": (vocabulary(tokens=("[str]", [])), ("bad vocabulary: 0 tokens",)),
    "tokens missing": (vocabulary(tokens=None), ("bad vocabulary: missing",)),
    "tokens that are numbers": (vocabulary(tokens=("[i32]", [1])), ("[i32], [str] expected",)),
    "one text as tokens": (vocabulary(tokens=("str", "a")), ("of type str, [str] expected",)),
    "a kind that is missing": (vocabulary(model=None), ("tokenizer.ggml.model", "bad vocabulary")),
    "types too few": (
        vocabulary(token_type=("[i32]", TYPES[:7])),
        ("tokenizer.ggml.token_type @", "bad vocabulary: 7 items for 8 tokens"),
    ),
    "types too many": (vocabulary(token_type=("[i32]", [*TYPES, 1])), ("9 items for 8 tokens",)),
    "types in words": (vocabulary(token_type=("[str]", ["1"] * 8)), ("[str], [i32] expected",)),
    "type 7": (vocabulary(token_type=("[i32]", [*TYPES[:7], 7])), ("type 7 of token 7",)),
    "type -1": (vocabulary(token_type=("[i32]", [*TYPES[:7], -1])), ("type -1 of token 7",)),
    "scores too few": (vocabulary(scores=("[f32]", SCORES[:3])), ("3 items for 8 tokens",)),
    "scores of a wrong type": (vocabulary(scores=("[i32]", [0] * 8)), ("[i32], [f32] expected",)),
    "a score NaN": (
        vocabulary(scores=("[f32]", [*SCORES[:7], float("nan")])),
        ("bad vocabulary: nan for token 7",),
    ),
    "EOS outside": (
        vocabulary(eos_token_id=("u32", 8)),
        ("tokenizer.ggml.eos_token_id @", "bad vocabulary: 8 is outside", "8 tokens"),
    ),
    "EOS 2^32-1": (vocabulary(eos_token_id=("u32", 2**32 - 1)), ("4294967295 is outside",)),
    "EOS negative": (vocabulary(eos_token_id=("i32", -1)), ("-1 is outside",)),
    "BOS outside": (vocabulary(bos_token_id=("u32", 99)), ("bos_token_id", "99 is outside")),
    "EOS in words": (vocabulary(eos_token_id=("str", "</s>")), ("of type str, an integer",)),
    "a rule of one token": (
        vocabulary(model=("str", "gpt2"), merges=("[str]", ["a b", "ab"])),
        ("tokenizer.ggml.merges", "bad vocabulary: rule 1, 'ab'"),
    ),
    "no rules": (vocabulary(model=("str", "gpt2")), ("merges", "bad vocabulary: missing")),
    "more tokens than rows": (
        lambda: gguf(
            with_(
                tokenizer__ggml__tokens=("[str]", [*TOKENS, "d"]),
                tokenizer__ggml__token_type=None,
                tokenizer__ggml__scores=None,
            )
        ),
        ("bad vocabulary: 9 tokens, but token_embd.weight has 8 rows",),
    ),
}

PARTS = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


def part(number: int, **changes: Any) -> bytes:
    """The part of that number (from 1) of a model in three parts of one tensor each."""
    metadata: Metadata = dict(MODEL) if number == 1 else {}
    metadata |= {
        "split.no": ("u16", number - 1),
        "split.count": ("u16", 3),
        "split.tensors.count": ("i32", 3),
    }
    metadata |= {name.replace("__", "."): pair for name, pair in changes.items()}
    metadata = {name: pair for name, pair in metadata.items() if pair is not None}
    return gguf(metadata, [(f"blk.0.part_{number}.weight", (32, 2), 0, 0, bytes(256))])


def parts(*, without: int = 0, **changed: bytes) -> Callable[[], dict[str, bytes]]:
    """The files of the set: `p2` replaces the second part, `without` is the one left out."""

    def build() -> dict[str, bytes]:
        files = {name: part(number) for number, name in enumerate(PARTS, 1) if number != without}
        return files | {PARTS[int(place[1:]) - 1]: data for place, data in changed.items()}

    return build


#: name → (the files, what the error must contain)
SPLITS: dict[str, tuple[Callable[[], dict[str, bytes]], tuple[str, ...]]] = {
    # 14
    "the first part missing": (parts(without=1), (PARTS[0], "part 1 of 3 is missing")),
    "a part missing": (parts(without=2), (PARTS[1], "part 2 of 3 is missing")),
    "the last part missing": (parts(without=3), (PARTS[2], "part 3 of 3 is missing")),
    "a part doubled": (
        parts(p3=part(2)),
        (PARTS[2], "split.no @", "1 in part 3 of 3, 2 expected", "doubled or shuffled"),
    ),
    "parts shuffled": (
        parts(p2=part(3), p3=part(2)),
        (PARTS[1], "split.no @", "2 in part 2 of 3, 1 expected", "doubled or shuffled"),
    ),
    "a part that repeats a tensor": (
        parts(p3=part(2, split__no=("u16", 2))),
        (PARTS[2], "tensor 'blk.0.part_2.weight' @", PARTS[1]),
    ),
    "a part of a set of four": (
        parts(p2=part(2, split__count=("u16", 4))),
        (PARTS[1], "split.count @", "4 in part 2 of 3"),
    ),
    "a part of a larger model": (
        parts(p2=part(2, split__tensors__count=("i32", 9))),
        (PARTS[1], "split.tensors.count @", "9 in part 2 of 3, 3 expected"),
    ),
    "tensors that do not add up": (
        parts(
            **{f"p{number}": part(number, split__tensors__count=("i32", 9)) for number in (1, 2, 3)}
        ),
        ("split.tensors.count", "9, but the 3 parts hold 3"),
    ),
    "a part of another architecture": (
        parts(p3=part(3, general__architecture=("str", "qwen2"))),
        (PARTS[2], "general.architecture @", "'qwen2'", "'llama' in part 1"),
    ),
    "a part that is no part": (
        parts(p2=gguf()),
        (PARTS[1], "split.count", "missing", "no part of a split model"),
    ),
    "a place in words": (
        parts(p2=part(2, split__no=("str", "1"))),
        (PARTS[1], "split.no", "of type str"),
    ),
    "a part that is broken": (parts(p3=b"GGUF"), (PARTS[2], "truncated header")),
    "a part that is a page": (parts(p2=b"<!doctype html>"), (PARTS[1], "this is an HTML page")),
    "a name that says nothing": (
        lambda: {"m.gguf": part(1)},
        ("m.gguf", "split.count @", "a part of 3, but its name does not say which"),
    ),
    "a name that says otherwise": (
        lambda: {"m-00001-of-00002.gguf": part(1)},
        ("split.count @", "a part of 3, but its name says it is one of 2"),
    ),
    "a name of a part of a file that is whole": (
        lambda: {PARTS[0]: gguf()},
        (PARTS[0], "split.count", "named as one of 3"),
    ),
}
