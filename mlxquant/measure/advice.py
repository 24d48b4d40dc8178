"""What a recommendation says: why this format, and what to do where it is not good enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .judging import HARMLESS, LITTLE, MUCH, Judge, Judged, longest_context

__all__ = ["size_text", "hints", "loss_text", "reason"]

_GB = 1 << 30

#: prompt tokens in one pass, where memory is short
_SHORT_PASS = 512

#: bytes that a Mac needs beside the GPU's memory
_LEAST_FOR_SYSTEM = 4 * _GB


def size_text(size: float) -> str:
    """`3.40 GiB`, `23.3 MiB`: powers of 1024, as memory is sold."""
    if size < _GB / 10:
        return f"{size / (1 << 20):.1f} MiB"
    return f"{size / _GB:.2f} GiB" if size < 100 * _GB else f"{size / _GB:.0f} GiB"


def loss_text(judged: Judged) -> str:
    """`0.0211`, or for an estimate `~0.045`."""
    loss = judged.loss
    if loss.kl == 0:
        return "0"
    digits = 3 if loss.source == "measured" else 2
    text = f"{loss.kl:.{digits}g}"
    if "e" in text:
        text = f"{loss.kl:.6f}".rstrip("0")
    return text if loss.source == "measured" else f"~{text}"


def reason(pick: Judged | None, judge: Judge, goal: str, judged: Sequence[Judged]) -> str:
    """Why this one, in a sentence; or why none."""
    budget = size_text(judge.target.budget)
    if pick is None:
        least = min(judged, key=lambda each: each.memory.total)
        return (
            f"no format fits: {least.name}, the smallest, takes {size_text(least.memory.total)}, "
            f"and there are {budget}: {judge.target.limit}"
        )
    loss = f"{loss_text(pick)} nats a token, {_said(pick)}"
    takes = f"it takes {size_text(pick.memory.total)} of {budget}"
    if goal == "quality" and pick.loss.kl <= HARMLESS:
        if pick.candidate.options is None:
            return f"as it is the model fits, and nothing smaller is as good; {takes}"
        return (
            f"{pick.name} is the smallest that can hardly be told from the original (divergence "
            f"{loss}); {takes}"
        )
    bounds = {
        "speed": (LITTLE, f"reads least for a token ({size_text(pick.token_bytes)}) of those"),
        "size": (MUCH, "is the smallest of those"),
    }
    if goal in bounds and pick.loss.kl <= bounds[goal][0]:
        bound, praise = bounds[goal]
        return f"{pick.name} {praise} that diverge by at most {bound} ({loss}); {takes}"
    return f"{pick.name} loses least of all that fit (divergence {loss}); {takes}"


def _said(judged: Judged) -> str:
    loss = judged.loss
    if loss.source == "measured":
        return loss.told
    return f"an estimate: {loss.low:.2g} to {loss.high:.2g}"


def hints(
    pick: Judged | None, judge: Judge, judged: Sequence[Judged], own: int | None
) -> Iterator[str]:
    """What else to do, a line each; with a pick, only where it is a poor one."""
    if pick is not None:
        if pick.loss.kl > LITTLE and pick.candidate.options is not None:
            yield (
                "this loses much: a smaller model in more bits, which fits as well, is likely to "
                "answer better"
            )
        return
    smallest = min(judged, key=lambda each: each.memory.total)
    longest = longest_context(judge, smallest.candidate, judge.context)
    if longest:
        yield f"a smaller context: {smallest.name} has room for {longest:,} tokens (--context)"
    yield from _other_options(judge, judged)
    yield from _more_memory(judge, smallest)
    spare = judge.target.budget - (smallest.memory.total - smallest.memory.weights)
    if spare > 0:
        share = spare / smallest.memory.weights
        size = share * judge.footprint.parameters * smallest.candidate.bits_per_weight / 4.5
        yield f"a smaller model: one of {_count(size)} parameters fits in 4 bits"


def _other_options(judge: Judge, judged: Sequence[Judged]) -> Iterator[str]:
    """Options of `mlxquant chat` with which something fits, the mildest."""
    quantized = judge.kv_bits is None and judge.footprint.cache.quantizable
    for bits, prefill in ((None, _SHORT_PASS), (8, None), (8, _SHORT_PASS), (4, _SHORT_PASS)):
        if bits and not quantized:
            continue
        changes = {"kv_bits": bits, "prefill": prefill}
        best = _best(judge, judged, **{name: n for name, n in changes.items() if n})
        if best is not None:
            words = [f"--kv-bits {bits}"] * bool(bits)
            words += [f"--prefill-step-size {prefill}"] * bool(prefill)
            what = "a cache in fewer bits" if bits else "a prompt in smaller parts"
            yield f"{what}: {best.name} fits with `mlxquant chat {' '.join(words)}`"
            return


def _best(judge: Judge, judged: Sequence[Judged], **changes: int) -> Judged | None:
    """The format that loses least of those that fit with these changes."""
    fitting = [each for each in judged if judge.fits(each.candidate, **changes)]
    return min(fitting, key=lambda each: each.loss.kl, default=None)


def _more_memory(judge: Judge, smallest: Judged) -> Iterator[str]:
    needed = smallest.memory.total
    if judge.target.limit.startswith("what macOS"):
        most = judge.target.memory - max(_LEAST_FOR_SYSTEM, judge.target.memory // 8)
        if judge.target.budget < needed <= most:
            megabytes = -(-needed // (1 << 20))
            yield (
                f"more of the memory for the GPU, until the next start: sudo sysctl "
                f"iogpu.wired_limit_mb={megabytes} ({smallest.name})"
            )
            return
    yield f"more memory: {smallest.name} needs {size_text(needed)} for the GPU"


def _count(weights: float) -> str:
    value, unit = (weights / 1e9, "billion") if weights >= 1e9 else (weights / 1e6, "million")
    return f"{value:.{1 if value < 10 else 0}f} {unit}"
