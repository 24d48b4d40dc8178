"""Whole evaluations: of models on disk, against a model or a file of its predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tiny_models

from mlxquant import ModelError, OutputError, RequestError, open_checkpoint, quantize
from mlxquant.errors import FileFormatError
from mlxquant.measure import results
from mlxquant.measure.divergence import LiveReference, measure_divergence
from mlxquant.measure.evaluate import evaluate
from mlxquant.measure.perplexity import measure_perplexity
from mlxquant.measure.reference import open_reference
from mlxquant.measure.session import load_to_measure
from mlxquant.measure.text import Cutting, Text, read_text
from mlxquant.pipeline_gguf import export

EXCERPT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"
CUTTING = Cutting(length=48, most=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the bundled one's tokenizer, and what it is in 8 and in 2 bits."""
    folder = tmp_path_factory.mktemp("models")
    config = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128}
    tiny_models.make(folder / "whole", "llama", lively=True, **config)
    for bits in (8, 2):
        quantize(folder / "whole", folder / f"{bits}bit", bits=bits, group_size=32)
    return folder


@pytest.fixture(scope="module")
def text() -> Text:
    return read_text(EXCERPT)


def measured(*names: Path, text: Text, **how: Any) -> list[dict[str, Any]]:
    """The records, held against the schema of results."""
    reference = how.pop("reference", None)
    if isinstance(reference, Path):
        reference = open_checkpoint(reference)
    how = {"cutting": CUTTING, "dtype": "float32", **how}
    found = list(evaluate([open_checkpoint(n) for n in names], text, reference=reference, **how))
    results.validate({**results.header("eval"), "records": found})
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records differ in nothing but how long they took."""
    return {**one, "seconds": 0} == {**other, "seconds": 0}


def test_without_a_reference(models: Path, text: Text) -> None:
    (record,) = measured(models / "8bit", text=text)
    model, tokenizer = load_to_measure(open_checkpoint(models / "8bit"), "float32")
    windows = CUTTING.windows(tokenizer, text)
    found = measure_perplexity(model, windows)
    assert record["perplexity"]["value"] == found.estimate.value
    assert record["perplexity"]["low"] == found.estimate.low
    assert record["reference"] is record["kl"] is record["top1"] is record["top5"] is None
    assert record["model"]["name"] == "8bit"
    assert record["text"] == {
        "name": "eval-excerpt.txt",
        "sha256": text.sha256,
        "tokens": windows.given,
    }
    assert record["windows"] == {
        "style": "mlx-lm",
        "length": 48,
        "stride": 48,
        "count": 4,
        "scored": 4 * 47,
    }


def test_against_a_reference(models: Path, text: Text) -> None:
    names = [models / "8bit", models / "2bit"]
    own, *records = measured(*names, text=text, reference=models / "whole")
    assert [r["model"]["name"] for r in (own, *records)] == ["whole", "8bit", "2bit"]
    assert own["kl"] is None
    reference, tokenizer = load_to_measure(open_checkpoint(models / "whole"), "float32")
    windows = CUTTING.windows(tokenizer, text)
    for name, record in zip(names, records, strict=True):
        model, _ = load_to_measure(open_checkpoint(name), "float32")
        found = measure_divergence(model, windows, LiveReference(reference, windows))
        assert record["reference"] == {"name": "whole", "perplexity": own["perplexity"]}
        assert own["perplexity"]["value"] == found.reference_perplexity.value
        assert record["perplexity"]["value"] == pytest.approx(found.perplexity.value, rel=1e-12)
        for key, estimate in found.kl_summary.items():
            value = record["kl"][key] if key == "max" else record["kl"][key]["value"]
            # the file leaves out a thousandth of each prediction
            assert value == pytest.approx(estimate.value, rel=0.02, abs=1e-5)
        assert record["kl"]["mean"]["value"] <= found.kl_summary["mean"].value * 1.0001
        for key, estimate in found.agreement.items():
            assert record[key]["value"] == pytest.approx(estimate.value, abs=1e-12)
    assert records[0]["kl"]["mean"]["value"] < 0.01 < records[1]["kl"]["mean"]["value"]
    assert records[0]["kl"]["mean"]["low"] < records[0]["kl"]["mean"]["value"]


def test_a_model_is_its_own_reference(models: Path, text: Text) -> None:
    (record,) = measured(models / "whole", text=text, reference=models / "whole")
    assert record["kl"]["mean"]["value"] < 1e-6
    assert record["top1"]["value"] == record["top5"]["value"] == 1
    assert record["model"]["base"] is None


def test_a_gguf_and_its_folder_are_one_vocabulary(models: Path, text: Text, tmp_path: Path) -> None:
    export(models / "whole", tmp_path / "whole-BF16.gguf")
    _, record = measured(tmp_path / "whole-BF16.gguf", text=text, reference=models / "whole")
    assert record["model"]["format"] == "BF16"
    assert record["kl"]["mean"]["value"] < 1e-6


def test_predictions_are_kept_and_used_again(models: Path, text: Text, tmp_path: Path) -> None:
    shutil.copytree(models / "whole", tmp_path / "large")
    large, cache = open_checkpoint(tmp_path / "large"), tmp_path / "large.ref"
    (own,) = measured(text=text, reference=large, cache=cache)
    written = cache.read_bytes()
    (tmp_path / "large" / "model.safetensors").unlink()  # a small machine has no room for it
    again, first = measured(models / "2bit", text=text, reference=large, cache=cache)
    assert same(own, again)
    assert cache.read_bytes() == written
    shutil.rmtree(tmp_path / "large")
    nothing = Text("other.txt", "nothing of this is looked at", "0" * 64)
    (record,) = measured(
        models / "2bit", text=nothing, cutting=Cutting(), reference=open_reference(cache)
    )
    assert same(record, first)
    assert record["model"]["base"] == "whole"


def test_another_file_in_the_place_of_predictions(models: Path, text: Text, tmp_path: Path) -> None:
    cache = tmp_path / "whole.ref"
    measured(text=text, reference=models / "whole", cache=cache)
    kept = cache.read_bytes()
    for changed, key in (
        ({"cutting": Cutting(length=48, most=3)}, "windows is 'mlx-lm 48 48 4', 'mlx-lm 48 48 3'"),
        ({"dtype": "float16"}, "dtype is 'float32', 'float16'"),
        ({"reference": models / "2bit"}, "model is 'whole', '2bit'"),
    ):
        how = {"text": text, "reference": models / "whole", "cache": cache, **changed}
        with pytest.raises(OutputError, match=key):
            measured(models / "8bit", **how)
    assert cache.read_bytes() == kept
    mine = tmp_path / "my notes"
    mine.write_text("not to be lost")
    with pytest.raises(FileFormatError, match="no file of reference predictions"):
        measured(models / "8bit", text=text, reference=models / "whole", cache=mine)
    assert mine.read_text() == "not to be lost"
    with pytest.raises(OutputError, match="there is no folder"):
        measured(text=text, reference=models / "whole", cache=tmp_path / "none" / "whole.ref")


def test_records_of_an_interrupted_run(models: Path, text: Text, tmp_path: Path) -> None:
    shutil.copytree(models / "8bit", tmp_path / "8bit")
    names = [tmp_path / "8bit", models / "2bit"]
    run = evaluate(
        list(map(open_checkpoint, names)),
        text,
        CUTTING,
        reference=open_checkpoint(models / "whole"),
        cache=tmp_path / "cache",
        dtype="float32",
    )
    known = [next(run), next(run)]
    run.close()
    checkpoint = open_checkpoint(tmp_path / "8bit")
    (tmp_path / "8bit" / "model.safetensors").write_bytes(b"")
    how: dict[str, Any] = {"reference": open_checkpoint(models / "whole"), "dtype": "float32"}
    two = [checkpoint, open_checkpoint(models / "2bit")]
    cache = tmp_path / "cache"
    found = list(evaluate(two, text, CUTTING, known=known, cache=cache, **how))
    assert same(found[0], known[0])
    assert found[1] is known[1]
    assert found[2]["model"]["name"] == "2bit"
    # with all of them known, nothing is loaded, not even the reference
    cache.unlink()
    (one, two_) = list(evaluate([checkpoint], text, CUTTING, known=known, cache=cache, **how))
    assert (one, two_) == (known[0], known[1])
    assert not cache.exists()


def test_like_llama_cpp(models: Path, text: Text) -> None:
    cutting = Cutting("llama.cpp", 32, most=3)
    (record,) = measured(models / "8bit", text=text, cutting=cutting)
    assert record["windows"] == {
        "style": "llama.cpp",
        "length": 32,
        "stride": 32,
        "count": 3,
        "scored": 3 * 15,
    }
    with pytest.raises(RequestError, match="side by side"):
        Cutting("llama.cpp", 32, stride=16)


def test_overlapping_windows_score_no_token_twice(models: Path, text: Text) -> None:
    (record,) = measured(models / "8bit", text=text, cutting=Cutting(length=32, stride=8, most=5))
    assert record["windows"]["stride"] == 8
    assert record["windows"]["scored"] == 5 * 8


def with_other_tokens(source: Path, folder: Path, change: Any) -> Path:
    """A copy of a model whose tokenizer.json is changed."""
    shutil.copytree(source, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


def test_another_vocabulary(models: Path, text: Text, tmp_path: Path) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    other = with_other_tokens(models / "8bit", tmp_path / "other", swap)
    (other / "model.safetensors").write_bytes((models / "8bit" / "model.safetensors").read_bytes())
    with pytest.raises(RequestError) as refused:
        measured(other, text=text, reference=models / "whole")
    fingerprints = {open_and_describe(path) for path in (other, models / "whole")}
    assert len(fingerprints) == 2
    assert all(each in str(refused.value) for each in fingerprints)
    with pytest.raises(RequestError, match="another vocabulary"):
        measured(other, models / "8bit", text=text)


def open_and_describe(path: Path) -> str:
    from mlxquant.measure.describe import describe

    return str(describe(open_checkpoint(path))["tokenizer"])


def test_one_vocabulary_cut_in_two_ways(models: Path, text: Text, tmp_path: Path) -> None:
    def unmerge(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:50]
        tokenizer["model"]["ignore_merges"] = False

    other = with_other_tokens(models / "8bit", tmp_path / "other", unmerge)
    with pytest.raises(RequestError, match="model's tokens .* are not the reference's"):
        measured(other, text=text, reference=models / "whole")


def with_weight(source: Path, folder: Path, name: str, value: float, row: int = 0) -> Path:
    """A copy of a float model with one number of a weight replaced."""
    shutil.copytree(source, folder)
    file = folder / "model.safetensors"
    weights: Any = mx.load(str(file))
    weights[name][row, 0] = value
    mx.save_safetensors(str(file), weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_layer_that_makes_the_first_nan(
    models: Path, text: Text, tmp_path: Path, value: float
) -> None:
    name = "model.layers.1.mlp.up_proj"
    broken = with_weight(models / "whole", tmp_path / "broken", f"{name}.weight", value)
    with pytest.raises(ModelError) as refused:
        measured(broken, text=text)
    assert f"in window 1 of 4, first in the output of {name}, whose weight" in str(refused.value)
    with pytest.raises(ModelError, match=f"the reference: .* first in the output of {name}"):
        measured(models / "8bit", text=text, reference=broken)


def test_nan_in_the_head_alone(models: Path, text: Text, tmp_path: Path) -> None:
    broken = with_weight(
        models / "whole", tmp_path / "broken", "model.embed_tokens.weight", float("nan"), row=4000
    )
    assert "<" not in text.content
    with pytest.raises(ModelError, match="made by the output head"):
        measured(broken, text=text)


def test_memory_is_given_back(models: Path, text: Text) -> None:
    before = mx.get_active_memory()
    size = (models / "2bit" / "model.safetensors").stat().st_size
    for _ in evaluate(
        [open_checkpoint(models / name) for name in ("8bit", "2bit")],
        text,
        CUTTING,
        reference=open_checkpoint(models / "whole"),
        dtype="float32",
    ):
        pass
    assert mx.get_active_memory() - before < size


def test_texts_that_cannot_be(models: Path, tmp_path: Path) -> None:
    for name, content, words in (
        ("empty.txt", b" \n", "is empty"),
        ("latin.txt", b"caf\xe9 " * 9, "text @3: not UTF-8"),
        ("utf16.txt", "coffee ".encode("utf-16-le") * 9, "text @1: a zero byte"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(99), "this is a PNG image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=words):
            read_text(tmp_path / name)
    with pytest.raises(FileFormatError):
        read_text(tmp_path)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(RequestError, match="at least 48 are needed"):
        measured(models / "8bit", text=read_text(tmp_path / "short.txt"))


def test_a_file_of_predictions_without_an_origin(models: Path, text: Text, tmp_path: Path) -> None:
    from mlxquant.measure.reference import write_reference

    model, tokenizer = load_to_measure(open_checkpoint(models / "whole"), "float32")
    file = write_reference(tmp_path / "ref", model, CUTTING.windows(tokenizer, text), {"a": "b"})
    with pytest.raises(FileFormatError, match="says nothing of 'model'"):
        measured(models / "8bit", text=text, reference=file)
