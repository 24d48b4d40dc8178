"""Every source that names an end of sequence counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vocabularies

from mlxquant import open_checkpoint, quantize_gguf
from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import read_gguf
from mlxquant.load.from_gguf import GgufCheckpoint
from mlxquant.load.from_hf import open_folder
from mlxquant.run.stops import added_tokens, eos_sources, stop_ids

Variant = Callable[..., Path]


def sources(folder: Path) -> dict[str, list[int | str]]:
    return eos_sources(open_folder(folder))


def with_tokens(*contents: str) -> Callable[[dict[str, Any]], None]:
    """An edit of tokenizer.json: its added tokens are these."""

    def edit(content: dict[str, Any]) -> None:
        content["added_tokens"] = [
            {"id": 4090 + index, "content": text, "special": True, "normalized": False}
            for index, text in enumerate(contents)
        ]

    return edit


def test_the_bundled_model_has_five_sources(bundled: Path) -> None:
    assert sources(bundled) == {
        "config.json": [4091, 4094],
        "generation_config.json": [4091, 4094],
        "tokenizer_config.json": ["<|end_of_text|>"],
        "special_tokens_map.json": ["<|end_of_text|>"],
        "tokenizer.json": ["<|end_of_text|>", "<|end|>"],
    }


def test_conflicting_sources_are_all_listed_and_all_stop(variant: Variant) -> None:
    folder = variant(
        config_json=lambda c: c.update(eos_token_id=5),
        generation_config_json=lambda c: c.update(eos_token_id=[6, 7, 6]),
        tokenizer_config_json=lambda c: c.update(eos_token={"content": "<|user|>", "lstrip": True}),
        special_tokens_map_json=lambda c: c.update(eos_token="<|pad|>"),
    )
    checkpoint = open_folder(folder)
    assert eos_sources(checkpoint) == {
        "config.json": [5],
        "generation_config.json": [6, 7],
        "tokenizer_config.json": ["<|user|>"],
        "special_tokens_map.json": ["<|pad|>"],
        "tokenizer.json": ["<|end_of_text|>", "<|end|>"],
    }
    vocabulary = {text: token for token, text in added_tokens(folder).items()}
    assert stop_ids(checkpoint, vocabulary) == {5, 6, 7, 4091, 4092, 4094, 4095}


def test_the_loaded_tokenizer_stops_at_the_union(variant: Variant) -> None:
    from mlxquant.run.model import load

    _, tokenizer = load(
        variant(
            config_json=lambda c: c.update(eos_token_id=5),
            generation_config_json=None,
            tokenizer_config_json=lambda c: c.update(eos_token="<|user|>"),
        )
    )
    assert tokenizer.eos_token_ids == {5, 4091, 4092, 4094}


def test_missing_files_and_nulls_are_no_sources(variant: Variant) -> None:
    folder = variant(
        config_json=lambda c: c.update(eos_token_id=None),
        generation_config_json=None,
        tokenizer_config_json=lambda c: c.update(eos_token=None),
        special_tokens_map_json=None,
        tokenizer_json=with_tokens("<|begin_of_text|>"),
    )
    assert sources(folder) == {}


def test_a_nested_text_config_counts_where_the_outer_one_says_nothing(variant: Variant) -> None:
    def nest(config: dict[str, Any]) -> None:
        del config["eos_token_id"]
        config["text_config"] = {"eos_token_id": 1}

    assert sources(variant(config_json=nest))["config.json"] == [1]


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>"], ["<|eot_id|>", "<|eom_id|>"]),
        (["<|im_start|>", "<|im_end|>", "<think>"], ["<|im_end|>"]),
        (["<start_of_turn>", "<end_of_turn>"], ["<end_of_turn>"]),
        (["<|user|>", "<|end|>"], ["<|end|>"]),
        # gpt-oss: <|end|> only separates the thoughts from the answer.
        (["<|return|>", "<|end|>", "<|call|>", "<|channel|>"], ["<|return|>", "<|call|>"]),
    ],
    ids=["llama", "chatml", "gemma", "phi", "gpt-oss"],
)
def test_turn_ends_of_known_formats(variant: Variant, tokens: list[str], ends: list[str]) -> None:
    assert sources(variant(tokenizer_json=with_tokens(*tokens))).get("tokenizer.json") == ends


def test_added_tokens_are_found_behind_a_long_vocabulary(tmp_path: Path) -> None:
    """tokenizers writes them first; a file that was made otherwise is read as a whole."""
    content = {"model": {"vocab": {"x" * 60 + str(n): n for n in range(150_000)}}}
    content["added_tokens"] = [{"id": 3, "content": "<|im_end|>"}]  # type: ignore[assignment]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert (tmp_path / "tokenizer.json").stat().st_size > 8 << 20
    assert added_tokens(tmp_path) == {3: "<|im_end|>"}


@pytest.mark.parametrize("listed", [None, 3, {}, [3], [{"id": "x", "content": 1}], [[[]]]])
def test_odd_added_tokens_are_no_tokens(tmp_path: Path, listed: Any) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": listed}))
    assert added_tokens(tmp_path) == {}


def test_deeply_nested_added_tokens_are_refused(tmp_path: Path) -> None:
    text = '{"added_tokens": ' + "[" * 100_000 + "]" * 100_000 + "}"
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(FileFormatError, match="nested deeper"):
        added_tokens(tmp_path)


@pytest.mark.parametrize("value", ["4091", True, -1, 1.5, [1, "2"], [[1]], {"id": 1}, 1 << 40])
@pytest.mark.parametrize("file", ["config", "generation_config"])
def test_what_is_no_token_id_is_named(variant: Variant, file: str, value: Any) -> None:
    folder = variant(**{f"{file}_json": lambda c: c.update(eos_token_id=value)})
    with pytest.raises(FileFormatError, match=rf"{file}\.json: eos_token_id: .* is not a token id"):
        sources(folder)


@pytest.mark.parametrize("value", [3, ["<|end|>"], {"text": "x"}])
def test_what_is_no_token_text_is_named(variant: Variant, value: Any) -> None:
    folder = variant(special_tokens_map_json=lambda c: c.update(eos_token=value))
    with pytest.raises(FileFormatError, match=r"special_tokens_map\.json: eos_token: .* not a tok"):
        sources(folder)


#: tokens added to a vocabulary whose </s> is its end, and keys that name some of them
GGUF_VOCABULARIES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "plain": ((), {}),
    "ends of a turn, by their text": (("<|im_end|>", "<end_of_turn>", "<|im_start|>"), {}),
    "ends by their keys": (("<over>", "<out>", "<both>"), {"eot": "<over>", "eom": "<out>"}),
    "another end": (("<eos>", "<stop>"), {"eos": "<stop>"}),
    "messages that end": (("<|end|>", "<|return|>", "<|call|>"), {}),
    "more messages that end": (("<|end|>", "<|flush|>", "<|calls|>"), {}),
    "an end that is none": (("<|end|>", "<|return|>"), {}),
    "a word of HTML": (("<eos>", "<|tool_response>"), {"eos": "<eos>"}),
    "code, by its text": (("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|fim_prefix|>"), {}),
    "code, by its keys": (
        ("<pad>", "<|fim_pad|>", "<name>"),
        {"fim_pad": "<pad>", "fim_rep": "<name>"},
    ),
}


@pytest.mark.parametrize("case", GGUF_VOCABULARIES)
def test_a_gguf_stops_where_llama_cpp_does(tmp_path: Path, case: str) -> None:
    texts, keys = GGUF_VOCABULARIES[case]
    metadata = vocabularies.scored()
    tokens = [*metadata["tokenizer.ggml.tokens"], *texts]
    metadata["tokenizer.ggml.tokens"] = tokens
    for key, value in (("scores", 0.0), ("token_type", 1)):
        metadata[f"tokenizer.ggml.{key}"] += [value] * len(texts)
    for role, text in keys.items():
        metadata[f"tokenizer.ggml.{role}_token_id"] = tokens.index(text)
    with vocabularies.llama_cpp(metadata, tmp_path) as theirs:
        is_end = theirs.program.llama_vocab_is_eog
        expected = {index for index in range(len(tokens)) if is_end(theirs.vocab, index)}
    file = tmp_path / "vocab.gguf"
    checkpoint = GgufCheckpoint(file, {}, {}, {}, None, (file,), (), headers=(read_gguf(file),))
    vocabulary = {text: index for index, text in enumerate(tokens)}
    assert stop_ids(checkpoint, vocabulary) == expected
    assert expected


def test_the_sources_of_a_gguf_are_named(bundled: Path, tmp_path: Path) -> None:
    file = tmp_path / "books.gguf"
    quantize_gguf(bundled, file, "F16")
    assert eos_sources(open_checkpoint(file)) == {
        "tokenizer.ggml.eos_token_id": [4091],
        "tokenizer.ggml.eot_token_id": [4094],
        "tokenizer.ggml.tokens": ["<|end_of_text|>", "<|end|>"],
    }
