"""Real llama.cpp and our tokenizers cut any text into the same ids."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import vocabularies as made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.gguf import read_gguf
from mlxquant.tokenizers import from_gguf, to_gguf
from mlxquant.tokenizers.pre_tokenizers import PRE_TOKENIZERS, to_json

DATA = Path(__file__).parents[1] / "data" / "vocab"
_SPECIALS = ("<|begin|>", "<|finish|>", "<tool>", "<|beg", "<|user|>", "<s>", "</s>", "<unk>")

_many = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class _Pair:
    """llama.cpp and our tokenizer on one vocabulary, with and without special tokens."""

    def __init__(self, metadata, folder, name="test"):
        self.program = made.llama_cpp(metadata, folder, name)
        files = from_gguf({**metadata, "general.name": name})
        self.ours = {parse: made.encoder(files, parse) for parse in (True, False)}

    def check(self, text):
        for parse, encode in self.ours.items():
            assert (text, encode(text)) == (text, self.program(text, parse))


#: one name of each meaning
_MEANINGS = {
    (row.patterns, row.ignore_merges, row.lines): name for name, row in PRE_TOKENIZERS.items()
}


@pytest.fixture(scope="module", params=sorted(_MEANINGS.values()))
def merged(request, tmp_path_factory):
    row = PRE_TOKENIZERS[request.param]
    folder = tmp_path_factory.mktemp("bpe")
    if row.raw:
        model = "whitespace" if request.param == "whitespace" else "gpt2"
        metadata = made.characters(request.param, model=model)
    else:
        tokenizer = made.byte_level(to_json(row), ignore_merges=row.ignore_merges)
        metadata = to_gguf(made.save(folder, tokenizer))
        metadata["tokenizer.ggml.pre"] = request.param
    pair = _Pair(metadata, folder)
    yield pair
    pair.program.close()


def test_every_pre_tokenizer_on_difficult_texts(merged):
    for text in made.TEXTS:
        merged.check(text)


@given(text=made.soup(*_SPECIALS))
@settings(_many, max_examples=100)
def test_every_pre_tokenizer_on_any_text(merged, text):
    merged.check(text)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    pair = _Pair(to_gguf(BUNDLED_MODEL), tmp_path_factory.mktemp("bundled"))
    yield pair
    pair.program.close()


_ORIGINAL = {parse: made.encoder(BUNDLED_MODEL, parse) for parse in (True, False)}


@given(text=made.soup("<|user|>", "<|end|>", "<|begin_of_text|>"))
@_many
def test_the_bundled_tokenizer_in_a_gguf(bundled, text):
    for parse, encode in _ORIGINAL.items():
        assert (text, encode(text)) == (text, bundled.program(text, parse))


def test_the_bundled_tokenizer_begins_text_with_bos(bundled):
    assert bundled.program("Call", add_special=True)[0] == 4090


@pytest.fixture(scope="module", params=[True, False])
def scored(request, tmp_path_factory):
    pair = _Pair(made.scored(request.param), tmp_path_factory.mktemp("scored"))
    yield pair
    pair.program.close()


@given(text=made.soup(*_SPECIALS, "▁", "<0x41>"))
@_many
def test_scored_vocabularies(scored, text):
    scored.check(text)


def test_scored_vocabularies_on_difficult_texts(scored):
    for text in made.TEXTS:
        scored.check(text)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    file = folder / "llama-spm.gguf"
    file.write_bytes(lzma.decompress((DATA / "llama-spm.gguf.xz").read_bytes()))
    header = read_gguf(file)
    metadata = {k: header.get(k) for k in header.metadata if k.startswith("tokenizer.")}
    pair = _Pair(metadata, folder)
    yield pair
    pair.program.close()


@given(text=made.soup(*_SPECIALS, "▁", "\n\n", "    "))
@_many
def test_a_real_scored_vocabulary(real, text):
    real.check(text)


def test_phi_3_is_known_by_its_name(tmp_path):
    metadata = made.scored()
    metadata["tokenizer.ggml.tokens"] += ["<|endoftext|>"]
    metadata["tokenizer.ggml.token_type"] += [3]
    metadata["tokenizer.ggml.scores"] += [0.0]
    pair = _Pair(metadata, tmp_path, "Phi-3 mini")
    for text in ("<|user|>\n\n the dog", "<s> the dog", "a</s>  b <|user|>", " <tool>  x"):
        pair.check(text)
    pair.program.close()


def _unigram(folder, **changes):
    tokenizer = made.save(folder, made.unigram(), eos_token="</s>", pad_token="<pad>")
    metadata = to_gguf(tokenizer)
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


#: what a GGUF may say of how a text is prepared
_PREPARED = {
    "as T5": {},
    "normalized": {"precompiled_charsmap": made.charsmap()},
    "spaces kept": {"remove_extra_whitespaces": False},
    "no space": {"remove_extra_whitespaces": False, "add_space_prefix": False},
    "a space behind": {"treat_whitespace_as_suffix": True},
    "normalized, spaces kept": {
        "remove_extra_whitespaces": False,
        "precompiled_charsmap": made.charsmap(),
    },
}


@pytest.fixture(scope="module", params=_PREPARED)
def unigram(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unigram")
    pair = _Pair(_unigram(folder, **_PREPARED[request.param]), folder)
    yield pair
    pair.program.close()


@given(text=made.soup("<pad>", "e\u0301", "ſ\u0301", "\u1100\u1161\u11a8", "ﬀ"))
@_many
def test_unigram_vocabularies(unigram, text):
    unigram.check(text)


def test_unigram_vocabularies_on_difficult_texts(unigram):
    for text in (*made.TEXTS, "<pad> a", "a <pad> ", " <unk>", "▁", "a▁ "):
        unigram.check(text)


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordpiece")
    tokenizer = made.save(folder, made.word_pieces(), cls_token="[CLS]", sep_token="[SEP]")
    pair = _Pair(to_gguf(tokenizer), folder)
    yield pair
    pair.program.close()


@given(text=made.soup("[MASK]", "[UNK]", "un", "able"))
@_many
def test_wordpiece_vocabularies(word_pieces, text):
    word_pieces.check(text)


def test_wordpiece_vocabularies_put_their_tokens_around_a_text(word_pieces):
    assert word_pieces.program("the", add_special=True)[::2] == [2, 3]


def _replaced(raw):
    """What llama.cpp makes of bytes that are no UTF-8: U+FFFD for each."""
    text = ""
    while raw:
        try:
            return text + raw.decode()
        except UnicodeDecodeError as problem:
            text += raw[: problem.start].decode() + "\ufffd"
            raw = raw[problem.start + 1 :]
    return text


_BYTES = st.sampled_from(
    (b"a", b" the", b"\n", "é".encode(), b"\xff", b"\x80", b"\xe2\x98", b"\xc3")
)


@given(raw=st.lists(_BYTES, max_size=12).map(b"".join))
@_many
def test_bytes_that_are_no_text(bundled, raw):
    text = _replaced(raw)
    assert (text, bundled.program(raw)) == (text, _ORIGINAL[True](text))
