"""JSON from outside: what is read, what is refused, and that nothing else is ever raised."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxquant.errors import FileFormatError
from mlxquant.files.json_file import CONFIG_LIMIT, DEPTH_LIMIT, check_json_ends, read_json_object


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.json"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": [1, -2.5, 1e300, True, None, 'é 🙂 \\ " [{ }', {"b": {}}], "": ""},
        {"rope": {"__float__": "Infinity"}},
        {"brackets in text": '[{[{ \\" ]}' * 100},
        {"lists": [[[i]] for i in range(1000)]},
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_reads_objects(value: dict[str, Any], ascii_only: bool, file: Path) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    file.write_text(f"\n\t {text}\r\n", encoding="utf-8")
    assert read_json_object(file) == value
    check_json_ends(file)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "content @0: this is an empty file"),
        (b"  \n", "@3: invalid JSON"),
        (b"[]", "content @0: an object {…} expected, found a list"),
        (b'"x"', "found text"),
        (b"1.5", "found a number"),
        (b"true", "found a truth value"),
        (b"null", "found null"),
        (b'{"a": 1', "line 1 @7: invalid JSON"),
        ('{"é": 1,\n "ö": }'.encode(), "line 2 @17: invalid JSON"),
        (b"{} {}", "line 1 @3: invalid JSON"),
        (b'{"a": tru}', "line 1 @6: invalid JSON"),
        (b"{'a': 1}", "invalid JSON"),
        (b'{"a": 1,}', "invalid JSON"),
        (b'{"a": "\n"}', "invalid JSON"),
        (b'{"a": "b}', "invalid JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": [Infinity]}', "Infinity is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "a": 1}', "key 'a': stands twice"),
        (b'{"x": [{"a": 1, "\\u0061": 2}]}', "key 'a': stands twice"),
        (b'{"%s": 1, "%s": 1}' % (b"k" * 999, b"k" * 999), "k…k"),
        (b'\xef\xbb\xbf{"a": 1}', "encoding @0: a byte-order mark"),
        (b'{"a": "\xff"}', "encoding @7: not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "encoding @0: not UTF-8"),
        (b'{"a": "\\ud800"}', "a lone surrogate"),
        (b'{"\\uDFFF": 1}', "a lone surrogate"),
        (b'{"a": %s}' % (b"1" * 5000), "more digits than can be read"),
        (b"<!DOCTYPE html>\n<html></html>", "an HTML page"),
        (b"<html><script>" + b"{[" * 999 + b"</script></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer: run git lfs pull"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (bytes(100), "zero bytes"),
    ],
)
def test_refuses_in_one_line(data: bytes, says: str, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        read_json_object(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[1,{"a":', b'}, "]"]')]
)
def test_the_depth_limit_is_exact(opening: bytes, closing: bytes, file: Path) -> None:
    step = opening.count(b"[") + opening.count(b"{")
    for depth, fine in ((DEPTH_LIMIT - 2, True), (DEPTH_LIMIT, False), (10**5, False)):
        inner = opening * (depth // step) + b"1" + closing * (depth // step)
        file.write_bytes(b'{"a":' + inner + b"}")
        if fine:
            read_json_object(file)
            continue
        with pytest.raises(FileFormatError, match=f"nested deeper than {DEPTH_LIMIT}"):
            read_json_object(file)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10**5,
        b"]" * 10**5,
        b'{"a":' * 10**5,
        b"[}" * 10**5,
        b"[" * 10**5 + b'\\"' + b"]" * 10**5,
        b'{"a":"\\\\"' + b",[" * 10**5,
        b'{"a":"' + b'\\"[' * 10**5,
        b'["' * 10**5,
    ],
)
def test_no_nesting_reaches_the_recursion_limit(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(FileFormatError):
        read_json_object(file)


def test_an_unpaired_bracket_is_reported_where_it_stands(file: Path) -> None:
    text = json.dumps({"a": {"b": [{"c": [1, 2, 3]}]}}).encode()
    for cut in range(1, len(text)):
        file.write_bytes(text[:cut])
        with pytest.raises(FileFormatError, match=r"line 1 @\d+: invalid JSON"):
            read_json_object(file)


def test_a_large_file_is_refused_unread(file: Path) -> None:
    file.write_bytes(b"{")
    os.truncate(file, 1 << 36)
    for read in (read_json_object, check_json_ends):
        with pytest.raises(FileFormatError, match=f"{1 << 36} bytes, at most {CONFIG_LIMIT}"):
            read(file)
    file.write_bytes(b"{}  ")
    read_json_object(file, limit=4)
    with pytest.raises(FileFormatError, match="4 bytes, at most 3"):
        read_json_object(file, limit=3)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": 1', b'"a": 1}', b"<html></html>"])
def test_the_ends_tell_a_file_cut_short(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(FileFormatError):
        check_json_ends(file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shared_file(examples: int) -> settings:
    """So many examples; they share one file, which each writes anew."""
    shared = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=shared)


@shared_file(200)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans())
def test_reads_what_json_writes(file: Path, value: dict[str, Any], ascii_only: bool) -> None:
    file.write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8", newline="")
    finite = "Infinity" not in json.dumps(value) or all(map(math.isfinite, numbers(value)))
    if finite:
        assert read_json_object(file) == value
    else:
        with pytest.raises(FileFormatError, match="Infinity"):
            read_json_object(file)


def numbers(value: Any) -> list[float]:
    """Every number of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, float) else []


@shared_file(600)
@given(
    st.lists(
        st.sampled_from(
            [b"{", b"}", b"[", b"]", b'"', b'"a"', b":", b",", b"\\", b"1", b"NaN", b" "]
        )
        | st.binary(max_size=3),
        max_size=40,
    ).map(b"".join)
)
def test_chance_gets_a_format_error_or_what_json_reads(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    try:
        found = read_json_object(file)
    except FileFormatError as problem:
        assert str(problem).isprintable()
    else:
        assert found == json.loads(data)
