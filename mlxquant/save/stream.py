"""Writing a layout to its final name: checked, locked, streamed, synced, published.

Everything is written below `<output>.partial`; the output gets its name when it is complete and
synced. An interrupted run leaves the partial folder behind, and `resume` ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, ModelError, RequestError
from .layout import UNIT_BYTES, Layout
from .partial import Partial, check_apart, check_space, write_error
from .source_hash import SourceHashes, stamps_of
from .work import Progress, Work

__all__ = ["Options", "stream"]


@dataclass(frozen=True)
class Options:
    """How to write.

    Attributes:
        force: replace an output that exists; `resume`: go on where a run was interrupted.
        threads: worker threads; None for one a core. The bytes do not depend on it.
        progress: called with (bytes done, bytes in all, name of the tensor).

    Raises:
        RequestError: fewer threads than one.
    """

    force: bool = False
    resume: bool = False
    threads: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise RequestError(f"threads {self.threads} is not at least 1")


def stream(
    layout: Layout,
    output: Path,
    model: Path,
    sources: Sequence[Path],
    identity: list[Any],
    options: Options,
    *,
    files: Sequence[str] | None = None,
    hashes: SourceHashes | None = None,
    finish: Callable[[Path, Work], None] | None = None,
) -> None:
    """Do a layout's work and give the result its name.

    Args:
        output: the final name.
        model: what is read, which the output must not touch; `sources`: its weight files.
        identity: with the layout and the sources, all that the output's bytes depend on.
        files: names of the shards beside `output`, where the output is files and not a folder.
        hashes: of the sources, under way; with them the shards are hashed on the way.
        finish: called with the partial folder when all shards are complete; what it adds belongs
            to the output.

    Raises:
        OutputError, WriteError, ModelError, FileFormatError: as `pipeline.quantize`.
    """
    check_apart(output, model)
    check_space(output, layout.nbytes)
    stamps = stamps_of(sources) if hashes is None else hashes.stamps
    content = json.dumps([stamps, layout.described(), identity], default=str)
    sizes = {shard.name: shard.size for shard in layout.shards}
    partial = Partial(
        output,
        hashlib.sha256(content.encode()).hexdigest(),
        sizes,
        files=files,
        force=options.force,
        resume=options.resume,
    )
    try:
        work = _run(layout, partial, hashes, options)
        if finish is not None:
            try:
                finish(partial.folder, work)
            except OSError as problem:
                raise write_error(partial.folder, problem) from problem
        if stamps_of(sources) != stamps:
            raise ModelError(f"{model}: changed while it was read; run again")
        partial.publish()
    except (FileFormatError, ModelError) as problem:
        # A resumed run could only fail in the same way, unless it was the reading that failed.
        if isinstance(problem, ModelError) or stamps_of(sources) != stamps:
            partial.discard()
        raise
    finally:
        partial.close()


def _run(layout: Layout, partial: Partial, hashes: SourceHashes | None, options: Options) -> Work:
    import mlx.core as mx

    work = Work(layout, partial.folder, partial.journal, hashes)
    threads = options.threads or os.cpu_count() or 1
    # MLX keeps freed buffers for the next unit, as many as the units in flight need: returning them
    # to the system each time costs more than the rounding (page faults, on every thread at once).
    before = mx.set_cache_limit(16 * UNIT_BYTES * threads)
    try:
        work.run(threads, options.progress)
    finally:
        mx.set_cache_limit(before)
    return work
