"""`mlxquant.json`, the record beside the weights: what made them, from what, and their hashes."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..quantize.exact import ImportRequest

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Plan
    from ..quantize.request import Request

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "describe_items",
    "describe_request",
    "described_options",
    "file_hash",
    "manifest",
    "versions",
]

MANIFEST = "mlxquant.json"
SCHEMA = 1


def manifest(
    plan: Plan,
    source: SourceModel,
    source_hashes: dict[str, str],
    files: dict[str, dict[str, Any]],
) -> bytes:
    """The manifest's bytes: the same run gives the same bytes, so there is no time in it.

    Args:
        source_hashes: SHA-256 of every source file that was read, by name.
        files: of every output file, by relative name: `{bytes, sha256}`.
    """
    checkpoint = source.checkpoint
    local = Path(checkpoint.source).exists() if checkpoint.source else True
    content = {
        "schema": SCHEMA,
        "source": {
            # a folder's own name only: where it lay is nobody else's business
            "name": checkpoint.path.resolve().name if local else checkpoint.source,
            "revision": checkpoint.revision,
            "sha256": dict(sorted(source_hashes.items())),
        },
        "request": describe_request(plan),
        **({"choices": dict(plan.choices)} if getattr(plan, "choices", None) else {}),
        "plan": "@plan",
        "versions": versions(),
        "files": dict(sorted(files.items())),
    }
    # a line a tensor
    lines = ",\n".join("  " + json.dumps(entry) for entry in describe_items(plan))
    text = json.dumps(content, indent=1).replace('"@plan"', f"[\n{lines}\n ]", 1)
    return (text + "\n").encode()


def describe_items(plan: Plan) -> list[dict[str, Any]]:
    """Every tensor's formats, before and after, as plain data."""
    return [
        {
            "name": item.name,
            "shape": list(item.shape),
            "source": item.source,
            "format": item.target.name if item.target else item.kept_format,
            **({"dtype": item.dtype.lower()} if item.target else {}),
            **({"reason": item.reason} if item.reason else {}),
        }
        for item in plan.items
    ]


def describe_request(plan: Plan) -> dict[str, Any]:
    """The request as plain data, and what was calibrated on."""
    if isinstance(plan.request, ImportRequest):
        return {"import": "exact", "allow_nonfinite": plan.request.allow_nonfinite}
    described = described_options(plan.request)
    if plan.calibration:
        described["calibration"] = plan.calibration
    return described


def described_options(request: Request) -> dict[str, Any]:
    """A request to quantize as plain data."""
    chosen = request.recipe or request.has_target
    return {
        "bits": None if chosen else request.default.bits,
        "group_size": None if request.has_target else request.default.block_size,
        "mode": request.mode,
        "recipe": request.recipe,
        "tensors": [list(pair) for pair in request.tensors],
        "embed_bits": request.embed_bits,
        "head_bits": request.head_bits,
        **({"plan": request.planned.fingerprint} if request.planned else {}),
        **{
            name: getattr(request, name)
            for name in ("target_bpw", "target_size", "target_kl", "prefer", "chip", "rotate")
            if getattr(request, name) is not None
        },
        **({"slowness": dict(request.slowness)} if request.slowness else {}),
        **({"awq": True} if request.awq else {}),
        **({"distill": True} if request.distill else {}),
        **({"seed": request.seed} if request.rotate or request.distill else {}),
        "dtype": request.dtype,
        "method": request.how,
        **({"quality": request.quality} if request.quality else {}),
        "dequantize": request.dequantize,
        "requantize": request.requantize,
    }


def versions() -> dict[str, str]:
    """Of what the bytes can depend on."""
    from .. import __version__

    return {"mlxquant": __version__, **{name: version(name) for name in ("mlx", "mlx-lm", "numpy")}}


def file_hash(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
