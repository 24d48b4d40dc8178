"""Reference predictions in a file: what is kept, what that costs, and files that are not whole."""

from __future__ import annotations

import json
import multiprocessing
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measure.table_model import TableModel, random_table, write_slowly
from scipy.special import log_softmax

from mlxquant import FileFormatError, ModelError, OutputError, RequestError, WriteError
from mlxquant.measure import scoring
from mlxquant.measure.condense import Condensed, condense, decode, encode
from mlxquant.measure.divergence import LiveReference, divergences, measure_divergence
from mlxquant.measure.perplexity import log_sums
from mlxquant.measure.reference import MAGIC, open_reference, write_reference
from mlxquant.measure.windows import Windows, cut, like_llama_cpp

ORIGIN = {"model": "a table", "text": "numbers"}


def predictions(
    vocabulary: int, n: int = 40, seed: int = 0, spread: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reference's logits [n, vocabulary], a model's that is near, and tokens [n]."""
    generator = np.random.default_rng(seed)
    rows = spread * generator.standard_normal((n, vocabulary))
    near = rows + 0.3 * generator.standard_normal(rows.shape)
    return rows, near, generator.integers(0, vocabulary, n).astype(np.int32)


def same(a: Condensed, b: Condensed) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("tail", [0, 1e-6, 1e-3, 0.1, 0.9])
@pytest.mark.parametrize("vocabulary", [2, 7, 300, 5000])
def test_what_is_kept(vocabulary: int, tail: float) -> None:
    rows, _, targets = predictions(vocabulary)
    kept = condense(rows, targets, tail)
    exact = log_softmax(rows, axis=1)
    assert np.allclose(kept.losses, -exact[np.arange(40), targets], rtol=1e-12)
    assert (kept.others <= tail).all()
    starts = np.cumsum(kept.counts) - kept.counts
    for i, (start, count) in enumerate(zip(starts, kept.counts, strict=True)):
        ids = kept.ids[start : start + count]
        log_p = kept.log_p()[start : start + count]
        left = np.delete(exact[i], ids)
        assert left.size == 0 or left.max() <= exact[i, ids].min()
        assert np.exp(left).sum() == pytest.approx(kept.others[i], rel=1e-9)
        assert np.exp(log_p).sum() + kept.others[i] == pytest.approx(1, rel=1e-12)
        assert np.abs(log_p - exact[i, ids]).max() <= kept.steps[i] * (1 + 1e-6) + 1e-12
    if tail == 0:
        assert (kept.counts == vocabulary).all()
    if vocabulary == 5000 and tail == 1e-3:
        assert kept.counts.mean() < 0.6 * vocabulary


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, 30.0])
def test_what_it_costs_is_within_the_bound(spread: float) -> None:
    """Codes alone: the stated bound. Left out: never more than KL, and little less."""
    rows, near, targets = predictions(2000, spread=spread)
    exact, sums = divergences(rows, near), log_sums(near)
    p, q = (log_softmax(values, axis=1) for values in (rows, near))
    whole = condense(rows, targets, 0)
    step = whole.steps
    spread_of_ratio = (np.exp(p) * np.abs(p - q - exact[:, None])).sum(axis=1)
    bound = np.expm1(step) * spread_of_ratio + step**2 + 1e-12
    assert (np.abs(whole.divergence(near, sums) - exact) <= bound).all()

    for tail in (1e-4, 1e-3, 1e-2):
        kept = condense(rows, targets, tail)
        loss = exact - kept.divergence(near, sums)
        assert (loss >= -bound).all()
        assert loss.mean() <= 3 * tail * exact.mean() + bound.mean()


def test_a_model_that_gives_the_others_next_to_nothing() -> None:
    """1 - (sum of the kept) has no digits left there; the sum is computed anew."""
    rows = np.log(np.array([[0.9, 0.0992, 0.0004, 0.0004]]))
    near = np.array([[0.0, 0.0, -60.0, -70.0]])
    kept = condense(rows, np.array([0], np.int32), 1e-3)
    assert kept.counts.tolist() == [2]
    p, q = np.array([0.9, 0.0992, 0.0008]), np.exp(near[0])
    q = np.array([q[0], q[1], q[2] + q[3]]) / q.sum()
    expected = (p * np.log(p / q)).sum()
    assert kept.divergence(near, log_sums(near)) == pytest.approx([expected], rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.sampled_from([1, 2, 5, 254, 255, 256, 257, 70000]),
    n=st.integers(1, 4),
    tail=st.sampled_from([0.0, 1e-3, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_and_back(vocabulary: int, n: int, tail: float, seed: int) -> None:
    rows, _, targets = predictions(vocabulary, n, seed, spread=6.0)
    kept = condense(rows, targets, tail)
    assert same(decode(encode(kept), n, vocabulary), kept)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_that_are_none_are_refused_or_read(data: st.DataObject) -> None:
    rows, near, targets = predictions(600, 3)
    payload = bytearray(encode(condense(rows, targets, 0.01)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(len(payload) - 9, len(payload)))]
    try:
        found = decode(bytes(payload), 3, 600)
    except ValueError:
        return
    with np.errstate(all="ignore"):
        assert found.divergence(near, log_sums(near)).shape == (3,)


@pytest.fixture
def tables() -> tuple[TableModel, TableModel, Windows]:
    one, two = random_table(500, seed=1), random_table(500, seed=2)
    tokens = np.random.default_rng(3).integers(0, 500, 900)
    windows = like_llama_cpp(tokens, 90, bos=4)
    return TableModel(one), TableModel(one + np.float32(0.1) * two), windows


Tables = tuple[TableModel, TableModel, Windows]


@pytest.mark.parametrize("chunk", [scoring.CHUNK, 5000])
def test_a_file_says_what_a_live_reference_says(
    tmp_path: Path, tables: Tables, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    reference, model, windows = tables
    written = write_reference(tmp_path / "ref", reference, windows, ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["ref"]
    opened = open_reference(tmp_path / "ref")
    assert opened.offsets == written.offsets
    assert (opened.origin, opened.tail, opened.vocabulary) == (ORIGIN, 1e-3, 500)
    assert opened.windows.facts() == windows.facts()
    monkeypatch.setattr(scoring, "CHUNK", 1 << 18)  # a reader's own is another

    live = measure_divergence(model, windows, LiveReference(reference, windows))
    found = measure_divergence(model, opened.windows, opened)
    for column in ("losses", "reference_losses", "top1", "top5"):
        assert np.array_equal(getattr(found, column), getattr(live, column)), column
    assert np.allclose(found.kl, live.kl, rtol=0.05, atol=1e-6)
    assert found.kl.mean() == pytest.approx(live.kl.mean(), rel=3e-3)
    itself = measure_divergence(reference, windows, opened)
    assert itself.kl.max() < 1e-6


class _Stops(TableModel):
    """A model that is interrupted at its fourth batch."""

    def __call__(self, tokens):  # type: ignore[no-untyped-def]
        if len(self.calls) == 3:
            raise KeyboardInterrupt
        return super().__call__(tokens)


@pytest.mark.parametrize("torn", [0, 1, 700])
def test_an_interrupted_run_goes_on(tmp_path: Path, tables: Tables, torn: int) -> None:
    reference, _, windows = tables
    write_reference(tmp_path / "whole", reference, windows, ORIGIN, batch=2)
    with pytest.raises(KeyboardInterrupt):
        write_reference(tmp_path / "ref", _Stops(reference.table), windows, ORIGIN, batch=2)
    assert not (tmp_path / "ref").exists()
    partial = tmp_path / "ref.partial"
    assert partial.stat().st_size > 1000
    with partial.open("r+b") as opened:
        opened.truncate(partial.stat().st_size - torn)
    seen: list[tuple[int, int]] = []
    reference.calls.clear()
    write_reference(
        tmp_path / "ref", reference, windows, ORIGIN, batch=2, progress=lambda *n: seen.append(n)
    )
    assert len(reference.calls) < 5
    assert seen[0][0] > 1
    assert seen[-1] == (10, 10)
    assert (tmp_path / "ref").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("change", ["origin", "tail", "tokens"])
def test_an_interrupted_run_of_another_is_not_continued(
    tmp_path: Path, tables: Tables, change: str
) -> None:
    reference, _, windows = tables
    with pytest.raises(KeyboardInterrupt):
        write_reference(tmp_path / "ref", _Stops(reference.table), windows, ORIGIN, batch=2)
    origin, tail = ORIGIN, 1e-3
    if change == "origin":
        origin = {**ORIGIN, "model": "another"}
    elif change == "tail":
        tail = 1e-2
    else:
        windows = like_llama_cpp(np.random.default_rng(9).integers(0, 500, 900), 90, bos=4)
    seen: list[tuple[int, int]] = []
    found = write_reference(
        tmp_path / "ref", reference, windows, origin, tail=tail, progress=lambda *n: seen.append(n)
    )
    assert seen[0] == (1, 10)
    assert (found.origin, found.tail) == (origin, tail)
    assert found.windows.fingerprint == windows.fingerprint


def test_two_runs_do_not_write_one_file(tmp_path: Path, tables: Tables) -> None:
    reference, _, windows = tables
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    table = np.array(reference.table)
    other = context.Process(
        target=write_slowly, args=(tmp_path / "ref", table, windows, ORIGIN, ready, go)
    )
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(OutputError, match="ref.partial: another run is writing it"):
            write_reference(tmp_path / "ref", reference, windows, ORIGIN)
    finally:
        go.set()
        other.join(60)
    assert other.exitcode == 0
    assert open_reference(tmp_path / "ref").windows.count == windows.count


def test_what_cannot_be_written(tmp_path: Path, tables: Tables) -> None:
    reference, _, windows = tables
    with pytest.raises(RequestError, match="tail 1"):
        write_reference(tmp_path / "ref", reference, windows, ORIGIN, tail=1)
    with pytest.raises(WriteError, match="nowhere"):
        write_reference(tmp_path / "nowhere" / "ref", reference, windows, ORIGIN)
    table = random_table(500, seed=1)
    table[windows.tokens[5, 60], 7] = np.nan
    with pytest.raises(ModelError, match="the reference"):
        write_reference(tmp_path / "ref", TableModel(table), windows, ORIGIN)
    assert not (tmp_path / "ref").exists()


@pytest.fixture
def written(tmp_path: Path, tables: Tables) -> Path:
    return write_reference(tmp_path / "ref", tables[0], tables[2], ORIGIN).path


def _with_header(file: Path, **changes: object) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    head = {**json.loads(data[12 : 12 + length]), **changes}
    new = json.dumps({key: value for key, value in head.items() if value != "gone"}).encode()
    file.write_bytes(MAGIC + struct.pack("<I", len(new)) + new + data[12 + length :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, 1 is known; a newer mlxquant reads it"),
        ({"schema": "gone"}, "no schema"),
        ({"windows": 1 << 40}, "windows is no number"),
        ({"windows": 1 << 30}, "tokens @.*: 1073741824 windows in a file of"),
        ({"windows": 11}, "ref: "),
        ({"rows": 0}, "rows is no number"),
        ({"length": True}, "length is no number"),
        ({"first": 90}, "first scored token 90 in windows of 90"),
        ({"bos": "a"}, "bos is no token"),
        ({"tail": 1.0}, "tail is no probability"),
        ({"origin": {"model": 3}}, "origin is no table"),
        ({"vocabulary": 100}, "tokens @.*: an id that is outside the vocabulary"),
    ],
)
def test_headers_that_lie(written: Path, changes: dict[str, object], message: str) -> None:
    _with_header(written, **changes)
    with pytest.raises(FileFormatError, match=message):
        open_reference(written)


@pytest.mark.parametrize("eighth", range(9))
def test_a_file_that_is_cut(written: Path, eighth: int) -> None:
    data = written.read_bytes()
    written.write_bytes(data[: (len(data) - 1) * eighth // 8])
    with pytest.raises(FileFormatError, match="ref: "):
        open_reference(written)


def test_other_files(tmp_path: Path) -> None:
    for name, data in {"text": b"hello", "deep": b"["}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError, match="is no file of reference predictions"):
            open_reference(tmp_path / name)
    deep = b"[" * 100_000
    (tmp_path / "deep").write_bytes(MAGIC + struct.pack("<I", len(deep)) + deep)
    with pytest.raises(FileFormatError, match="header.*is no JSON"):
        open_reference(tmp_path / "deep")
    with pytest.raises(FileFormatError, match="cannot be read"):
        open_reference(tmp_path)
    with pytest.raises(FileFormatError, match="cannot be read"):
        open_reference(tmp_path / "missing")


def test_damaged_predictions_are_found(written: Path, tables: Tables) -> None:
    _, model, windows = tables
    opened = open_reference(written)
    data = bytearray(written.read_bytes())
    data[opened.offsets[3] + 100] ^= 1
    written.write_bytes(data)
    with pytest.raises(FileFormatError, match="record 3 @.*is damaged; make the file again"):
        measure_divergence(model, windows, open_reference(written))


def test_windows_of_a_file_are_enough_without_the_text(tmp_path: Path) -> None:
    model = TableModel(random_table(30, seed=4))
    windows = cut(range(30), 10, stride=5, first=5)
    opened = write_reference(tmp_path / "ref", model, windows, ORIGIN)
    assert np.array_equal(opened.windows.tokens, windows.tokens)
    assert str(opened.windows) == str(windows)
