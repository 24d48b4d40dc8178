"""The schema of results: what is accepted, what is refused and in which words."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results_made import bench_document, bench_record, eval_document, eval_record
from support import REPOSITORY

from mlxquant import FileFormatError, InputError, OutputError, WriteError
from mlxquant.measure import results
from mlxquant.measure.schema import Object

PAGE = REPOSITORY / "docs" / "results.md"

#: whatever JSON can hold, and what Python's json would read besides
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every value of a document is."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


DOCUMENTS = (
    eval_document(eval_record(), eval_record(8.5, reference=None, kl=None, top1=None, top5=None)),
    bench_document(bench_record(energy=0.2), bench_record(8.5, limit=None, share=None)),
)

PLACES = [(number, place) for number, made in enumerate(DOCUMENTS) for place in places(made)]


def put(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a document with another value at one place."""
    if not path:
        return value
    made = json.loads(json.dumps(document))
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


@pytest.mark.parametrize("document", DOCUMENTS, ids=["eval", "bench"])
def test_a_document_comes_back_as_it_was(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "made.json"
    results.save(path, document)
    assert results.load(path) == document
    assert [file.name for file in tmp_path.iterdir()] == ["made.json"]
    results.save(path, {**document, "records": []})
    assert results.load(path)["records"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version: 2; this mlxquant reads up to 1: update mlxquant"),
        ({"version": 0}, "version: an integer from 1 expected, found 0"),
        ({"version": "1"}, "version: an integer from 1 expected, found '1'"),
        ({"format": "GGUF"}, 'format: not a file of results: "mlxquant-results" expected'),
        ({"kind": "speed"}, 'kind: "eval" or "bench" expected, found \'speed\''),
        ({"kind": ["eval"]}, 'kind: "eval" or "bench" expected, found a list of 1'),
        ({"made": "yesterday"}, "made: a time in UTC like 2026-11-24T02:30:00+00:00 expected"),
        ({"made": "2026-11-24T02:30:00"}, "made: a time in UTC like"),
        ({"made": "2026-11-24T02:30:00+01:00"}, "made: a time in UTC like"),
        ({"machine.chip": ""}, "machine.chip: text expected, found ''"),
        ({"machine.chip": "x" * 501}, "machine.chip: at most 500 characters expected, found 501"),
        ({"machine.chip": "\ud800"}, "machine.chip: a lone surrogate"),
        ({"machine.kind": "tpu"}, 'machine.kind: "gpu" or "cpu" expected'),
        ({"machine.cpu_cores": True}, "machine.cpu_cores: an integer from 1 expected, found true"),
        ({"machine.memory_bytes": 1 << 63}, "machine.memory_bytes: at most 2^63 - 1 expected"),
        ({"machine.memory_bytes": 10**9999}, "found 33216 bits of integer"),
        ({"conditions.load": -1}, "conditions.load: a number from 0 expected, found -1"),
        ({"conditions.notes": [1]}, "conditions.notes[0]: text expected, found 1"),
        ({"records": {}}, "records: a list, each an eval record expected, found an object"),
        ({"records.0.kl.mean.low": None, "records.0.kl.mean.value": float("nan")}, "found nan"),
        ({"records.0.perplexity.value": 0}, "records[0].perplexity.value: a number above 0"),
        ({"records.0.perplexity.high": 1}, "records[0].perplexity.high: at least low ("),
        ({"records.0.top1.value": 1.01}, "records[0].top1.value: at most 1 expected, found 1.01"),
        ({"records.0.model.bytes": 1e6}, "records[0].model.bytes: an integer from 1 expected"),
        ({"records.0.model.tokenizer": "no"}, "tokenizer: a fingerprint in hexadecimal expected"),
        ({"records.0.text.sha256": "AB" * 32}, "sha256: a SHA-256 in hexadecimal expected"),
        ({"records.0.seconds": (1,)}, "seconds: a number from 0 expected, found a tuple, which"),
    ],
)
def test_what_is_refused_in_an_eval(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FileFormatError) as refused:
        results.validate(eval_document(**change), "some.json")
    assert str(refused.value).startswith("some.json: ")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"records.0.decode.low": 1e9}, "records[0].decode.median: at least low (1000000000.0)"),
        ({"records.0.decode.runs": []}, "records[0].decode.runs: 1 to 1000 items expected, found"),
        ({"records.0.throttled": None}, "records[0].throttled: true or false expected, found null"),
        ({"records.0.energy": 0}, "records[0].energy: a number above 0 expected, found 0"),
        ({"kind": "eval"}, "records[0].text: missing; a text expected"),
    ],
)
def test_what_is_refused_in_a_bench(change: dict[str, Any], words: str) -> None:
    with pytest.raises(FileFormatError) as refused:
        results.validate(bench_document(**change))
    assert words in str(refused.value)


@pytest.mark.parametrize("document", DOCUMENTS, ids=["eval", "bench"])
def test_every_field_is_needed_and_no_other_is_known(document: dict[str, Any]) -> None:
    objects = [place for place in places(document) if isinstance(get(document, place), dict)]
    assert len(objects) > 10
    for place in objects:
        there = get(document, place)
        for name in there:
            without = {key: value for key, value in there.items() if key != name}
            with pytest.raises(FileFormatError, match=r"missing|not a file of results|version"):
                results.validate(put(document, place, without))
        with pytest.raises(FileFormatError, match=r"unknown field 'nmae'; the fields are "):
            results.validate(put(document, place, {**there, "nmae": 1}))


def get(document: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@settings(max_examples=250, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_anywhere_is_sound_or_an_input_error(
    place: tuple[int, tuple[str | int, ...]], value: Any
) -> None:
    number, path = place
    document = DOCUMENTS[number]
    made = put(document, path, value)
    try:
        results.validate(made)
    except InputError as problem:
        assert "\n" not in str(problem)
        assert len(str(problem)) <= 600
    else:
        json.dumps(made, allow_nan=False).encode()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_file_is_sound_or_an_input_error(tmp_path: Path, data: st.DataObject) -> None:
    text = json.dumps(DOCUMENTS[1]).encode()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    path = tmp_path / "results.json"
    path.write_bytes(text[:start] + data.draw(st.binary(max_size=12)) + text[stop:])
    try:
        assert results.load(path)["format"] == results.FORMAT
    except InputError as problem:
        assert str(problem).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "this is an empty file"),
        (b"[]", "an object {…} expected, found a list"),
        (b'{"a": ' * 10_000 + b"1" + b"}" * 10_000, "nested deeper than 64"),
        (b'{"format": "mlxquant-results", "format": 1}', "stands twice in one object"),
        (b'{"version": NaN}', "NaN is not JSON"),
        (b'{"version": 1%s}' % (b"0" * 9999), "more digits than can be read"),
        (b"<html>", "an HTML page"),
        (b"{" + b" " * (16 << 20) + b"}", "bytes, at most 16777216 expected"),
    ],
    ids=["empty", "list", "deep", "twice", "nan", "digits", "html", "large"],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as refused:
        results.load(path)
    assert words in str(refused.value)


@pytest.mark.parametrize("document", [None, [], "text", {}, {"format": None}, float("inf")])
def test_documents_that_are_none(document: Any) -> None:
    with pytest.raises(FileFormatError, match=r"found|expected"):
        results.validate(document)


def test_nothing_is_written_of_what_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(FileFormatError, match="version"):
        results.save(path, eval_document(version=2))
    many = [bench_record(notes=["x" * 499] * 1000) for _ in range(40)]
    with pytest.raises(FileFormatError, match="bytes, at most 16777216 can be read"):
        results.save(path, bench_document(*many))
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_where_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        results.save(tmp_path / "none" / "results.json", eval_document())
    path = tmp_path / "results.json"
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(WriteError, match="cannot be written"):
        results.save(path, eval_document())
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "results.json"]


def test_a_results_file_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    mask = os.umask(0o022)
    try:
        results.save(path, eval_document())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", ["eval", "bench"])
def test_the_header_is_a_document_of_this_machine(kind: str) -> None:
    document = results.header(kind)
    results.validate(document)
    assert document["kind"] == kind
    assert document["records"] == []
    assert document["machine"]["cpu_cores"] >= 1


def tables() -> str:
    """The schema as docs/results.md shows it."""
    parts = []
    for made in results.OBJECTS:
        assert isinstance(made, Object)
        title = made.name[0].upper() + made.name[1:]
        lines = [f"### {title}", "", "| field | value | |", "|---|---|---|"]
        lines += rows(made)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def rows(made: Object, prefix: str = "") -> list[str]:
    """Lines of an object's table; objects that have no table of their own are spelt out."""
    lines = []
    named = {table.name for table in results.OBJECTS}
    for name, field in made.fields.items():
        kind = getattr(field.kind, "kind", field.kind)
        words = field.kind.words.replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {words} | {field.meaning} |")
        if isinstance(kind, Object) and kind.name not in named:
            lines += rows(kind, f"{prefix}{name}.")
    return lines


def test_the_page_shows_the_schema() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"(?<=\n)### A results document\n.*?(?=\n## )", page, re.DOTALL)
    assert found is not None
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + tables() + page[found.end() :]
        PAGE.write_text(page, encoding="utf-8")
    assert f"\n{tables()}\n## " in page
