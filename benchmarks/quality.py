"""What does a model lose for its bytes? Every format, method and tool, measured in one way.

    python benchmarks/quality.py                          # what is not in the results file yet
    python benchmarks/quality.py --only '*/gptq'          # these, anew
    python benchmarks/quality.py --jobs 8                 # so many at a time, each a process
    python benchmarks/quality.py --only 'mlxquant/*' --windows 8 --out look.json
    python benchmarks/quality.py --docs                   # tables and plots of what is there

quality_variants.py says which models, quality_makers.py how each is made. One after the other is
made of the bundled model in a temporary folder, measured on every text against the model that it
was made of (`mlxquant.measure`, computed in float32), and deleted. A record is in the results file
as soon as it is measured, so that a run can be interrupted and goes on where it was. Two models of
the same weights are measured once.

Some GGUF files are run by llama.cpp as well, and compared with the float model run by llama.cpp.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from quality_makers import FailedError, Workshop
from quality_record import IN_LLAMA_CPP, compared
from quality_variants import VARIANTS, Variant, filled, sizes_asked
from reporting import note

from mlxquant import open_checkpoint
from mlxquant.assets import BUNDLED_TEXT, OTHER_TEXT
from mlxquant.measure import results
from mlxquant.measure.describe import describe
from mlxquant.measure.divergence import measure_divergence
from mlxquant.measure.evaluate import evaluate
from mlxquant.measure.reference import ReferenceFile, open_reference, write_reference
from mlxquant.measure.text import Cutting, Text, read_text

RESULTS = Path(__file__).resolve().parent / "results" / "quality.json"

Record = dict[str, Any]


class Book:
    """The results file, complete after every record.

    Args:
        path: the file; None to keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        there = path is not None and path.exists()
        self.records: list[Record] = results.load(path)["records"] if there and path else []

    def find(self, key: str, text: Text, windows: int, reference: str | None) -> Record | None:
        """The record of a model on a text, in so many windows."""
        for record in self.records:
            theirs = record["reference"]
            if (
                record["model"]["name"] == key
                and record["text"]["sha256"] == text.sha256
                and record["windows"]["count"] == windows
                and (theirs["name"] if theirs else None) == reference
            ):
                return record
        return None

    def bytes_of(self, key: str) -> int:
        """Weight bytes of a model that was measured.

        Raises:
            FailedError: it was not.
        """
        for record in self.records:
            if record["model"]["name"] == key:
                return int(record["model"]["bytes"])
        raise FailedError(f"its size is to be that of {key}, which is not measured yet")

    def keep(self, record: Record) -> None:
        """Put a record in the place of the one before of the same, and write the file."""
        same = [old for old in self.records if _same(old, record)]
        self.records = [old for old in self.records if old not in same] + [record]
        self.records.sort(key=_order)
        if self.path is not None:
            document = results.header("eval")
            document["conditions"]["notes"] += [
                "computed in float32",
                "records may be of earlier runs, of versions before this one",
            ]
            results.save(self.path, {**document, "records": self.records})


def _same(one: Record, other: Record) -> bool:
    return all(one[part] == other[part] for part in ("text", "windows")) and (
        one["model"]["name"] == other["model"]["name"]
        and (one["reference"] or {}).get("name") == (other["reference"] or {}).get("name")
    )


_PLACES = {variant.key: place for place, variant in enumerate(VARIANTS)}


def _order(record: Record) -> tuple[Any, ...]:
    name = record["model"]["name"]
    return _PLACES.get(name, -1), name, record["text"]["name"], str(record["reference"])


class Run:
    """Measures variants.

    Args:
        book: where records go.
        shop: who makes models; its folder also holds what the float model predicts.
        texts: what is measured on; windows: so many of each at most.
    """

    def __init__(self, book: Book, shop: Workshop, texts: list[Text], windows: int | None) -> None:
        self.book, self.shop = book, shop
        self.cutting = Cutting(most=windows)
        self.references = [self._reference(text) for text in texts]
        self._measured: dict[str, list[Record]] = {}

    def _reference(self, text: Text) -> tuple[Text, ReferenceFile]:
        """The float model's predictions, and its own record."""
        path = self.shop.folder / f"{text.sha256[:16]}-{self.cutting.most or 'all'}.ref"
        float_model = open_checkpoint()
        for record in evaluate([], text, self.cutting, reference=float_model, cache=path):
            self.book.keep(record)
        return text, open_reference(path)

    def missing(self, variant: Variant) -> bool:
        """Whether there is a text on which the variant was not measured."""
        name = describe(open_checkpoint())["name"]
        wanted = [name, *([IN_LLAMA_CPP] if variant.in_llama_cpp else [])]
        return any(
            self.book.find(variant.key, text, reference.windows.count, each) is None
            for text, reference in self.references
            for each in wanted
        )

    def measure(self, variant: Variant) -> str:
        """Make a variant, measure it on every text, delete it; what was found, in a line.

        Raises:
            FailedError: it could not be made.
        """
        began = time.perf_counter()
        sizes = _Sizes(self.book)
        out = Path(tempfile.mkdtemp(prefix="quality-")) / "made"
        try:
            model = self.shop.make(variant.maker, filled(variant, sizes), out)
            made = time.perf_counter() - began
            records = list(self._records(variant, model))
        finally:
            shutil.rmtree(out.parent)
        for record in records:
            self.book.keep(record)
        found = " ".join(f"{record['kl']['mean']['value']:.5f}" for record in records)
        bits = records[0]["model"]["bits_per_weight"]
        total = time.perf_counter() - began
        return f"{bits:6.3f} bits  KL {found}  ({made:.0f} + {total - made:.0f} s)"

    def prepare(self) -> None:
        """Make what several variants need, so that processes side by side find it."""
        shop = self.shop
        _ = shop.float32, shop.home, shop.rows, shop.bf16, shop.f32, shop.imatrix
        for text, reference in self.references:
            self._llama_reference(text, reference)

    def _records(self, variant: Variant, path: Path) -> Iterator[Record]:
        checkpoint = open_checkpoint(path)
        digest = _digest(checkpoint)
        if digest not in self._measured:
            self._measured[digest] = [
                record
                for text, reference in self.references
                for record in evaluate([checkpoint], text, reference=reference, dtype="float32")
            ]
        for record in copy.deepcopy(self._measured[digest]):
            record["model"] |= _called(variant)
            yield record
        if variant.in_llama_cpp:
            from quality_llama import LlamaModel

            subject = describe(checkpoint) | _called(variant)
            running = LlamaModel(path)
            for text, reference in self.references:
                began = time.perf_counter()
                theirs = self._llama_reference(text, reference)
                found = measure_divergence(running, reference.windows, theirs)
                yield compared(found, subject, text, IN_LLAMA_CPP, time.perf_counter() - began)
            running.close()

    def _llama_reference(self, text: Text, like: ReferenceFile) -> ReferenceFile:
        """What the float model predicts where llama.cpp runs it."""
        path = like.path.with_suffix(".llama.ref")
        if not path.exists():
            from quality_llama import LlamaModel

            running = LlamaModel(self.shop.f32)
            origin = {**like.origin, "model": IN_LLAMA_CPP}
            write_reference(path, running, like.windows, origin)
            running.close()
        return open_reference(path)


def measure_side_by_side(
    run: Run, variants: Sequence[Variant], jobs: int, options: Sequence[str]
) -> list[str]:
    """Measure variants in processes, those whose sizes others ask for first.

    Args:
        run: what they share, and the book that their records come into.
        jobs: processes at a time; options: of this program, for each.

    Returns:
        The keys of those that could not be made.
    """
    run.prepare()
    failed = []
    with tempfile.TemporaryDirectory(prefix="quality-") as folder, ThreadPoolExecutor(jobs) as pool:

        def measured(variant: Variant) -> Path:
            out = Path(folder) / f"{_PLACES[variant.key]}.json"
            if run.book.records:
                results.save(out, {**results.header("eval"), "records": run.book.records})
            told = ("--only", variant.key, "--out", out, "--cache", run.shop.folder, *options)
            subprocess.run([sys.executable, __file__, *map(str, told)], check=True)
            return out

        asked = {key for variant in variants for key in sizes_asked(variant)}
        for first in (True, False):
            # those that calibrate take longest, so they begin
            turn = [variant for variant in variants if (variant.key in asked) is first]
            turn.sort(key=lambda variant: variant.method in ("rtn", "plain", "imatrix"))
            waiting = {pool.submit(measured, variant): variant for variant in turn}
            for done in as_completed(waiting):
                key = waiting[done].key
                if done.exception() is not None:
                    failed.append(key)
                    continue
                for record in results.load(done.result())["records"]:
                    if record["model"]["name"] == key:
                        run.book.keep(record)
    return failed


class _Sizes(dict[str, int]):
    """Bytes of variants, looked up when they are asked for."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def __missing__(self, key: str) -> int:
        return self._book.bytes_of(key)


def _called(variant: Variant) -> dict[str, str]:
    """What a record calls a variant."""
    return {
        "name": variant.key,
        "base": describe(open_checkpoint())["name"],
        "format": variant.format,
        "tool": variant.tool,
        "method": variant.method,
    }


def _digest(checkpoint: Any) -> str:
    """The same for the same weights, in whatever order and files they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.stored.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        with tensor.file.open("rb") as file:
            file.seek(tensor.start)
            digest.update(file.read(tensor.stop - tensor.start))
    return digest.hexdigest()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--only",
        action="append",
        metavar="GLOB",
        help="tool/format/method of the variants to measure, measured or not; may be repeated",
    )
    parser.add_argument(
        "--text",
        action="append",
        type=Path,
        metavar="FILE",
        help="measure on this text; may be repeated (default: the two that come with mlxquant)",
    )
    parser.add_argument("--windows", type=int, help="so many of each text at most; a quick look")
    parser.add_argument(
        "--out", type=Path, help=f"results file (default: {RESULTS.name}; with --windows none)"
    )
    parser.add_argument(
        "--cache", type=Path, help="folder for what several runs need (default: a temporary one)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time (default: 1)")
    parser.add_argument("--list", action="store_true", help="name the variants and stop")
    parser.add_argument(
        "--docs", action="store_true", help="rewrite tables and plots from the results and stop"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, and exit with 1 where a variant could not be made."""
    given = arguments()
    globs = given.only or ["*"]
    chosen = [v for v in VARIANTS if any(fnmatchcase(v.key, glob) for glob in globs)]
    if given.list:
        print("\n".join(variant.key for variant in chosen))
        return 0
    if given.docs:
        from quality_docs import write_docs

        write_docs(results.load(given.out or RESULTS)["records"])
        return 0
    if not chosen:
        note(f"no variant is called {' or '.join(globs)}: --list names them")
        return 2
    book = Book(given.out or (None if given.windows else RESULTS))
    failed = []
    with tempfile.TemporaryDirectory(prefix="quality-") as temporary:
        shop = Workshop(given.cache or Path(temporary))
        shop.folder.mkdir(parents=True, exist_ok=True)
        texts = [read_text(path) for path in given.text or (BUNDLED_TEXT, OTHER_TEXT)]
        run = Run(book, shop, texts, given.windows)
        if not given.only:
            chosen = [variant for variant in chosen if run.missing(variant)]
        if given.jobs > 1:
            options = [part for path in given.text or () for part in ("--text", str(path))]
            options += ["--windows", str(given.windows)] if given.windows else []
            failed, chosen = measure_side_by_side(run, chosen, given.jobs, options), []
        for variant in chosen:
            try:
                said = run.measure(variant)
            except FailedError as problem:
                said = f"FAILED: {problem}"
                failed.append(variant.key)
            note(f"{variant.key:40}{said}")
    if failed:
        note(f"{len(failed)} could not be made: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
