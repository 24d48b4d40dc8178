"""The document as rows of text, for a terminal and for a page."""

from __future__ import annotations

from typing import Any

__all__ = ["Rows", "backends", "checked", "facts", "speeds"]

#: titles of columns, and cells
Rows = tuple[list[str], list[list[str]]]

#: rows of x with which arithmetic is the limit of a product, and not memory
_MANY = 16

#: kernels that are measured on a GPU and on a processor
_ON_BOTH = ("dequantize", "matvec", "matmul", "encode", "affine search")

_BACKENDS = {
    "metal": "GPU",
    "cpu": "this processor",
    "mlx": "MLX's operations",
    "numpy": "NumPy",
}


def facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what the machine is."""
    machine, software, device = (document[name] for name in ("machine", "software", "device"))
    compiler, cache = document["compiler"], document["cache"]
    cores = f"{machine['cpu_cores']} CPU cores"
    cores += f", {machine['gpu_cores']} GPU cores" if machine["gpu_cores"] else ""
    rows = [
        ("chip", f"{machine['chip']}, {cores}"),
        ("memory", f"{_size(machine['memory_bytes'])}{_bandwidth(document['bandwidth'])}"),
        ("system", machine["system"]),
        ("mlxquant", f"{software['mlxquant']}, Python {software['python']}"),
    ]
    packages = (f"{name} {software[name] or 'missing'}" for name in ("mlx", "mlx-lm", "numpy"))
    rows += [("software", ", ".join(packages)), ("device", _device(device))]
    why = compiler["why"]
    rows.append(("compiler", why or f"{compiler['version']}, {compiler['path']}"))
    where = cache["folder"] or "none"
    rows.append(("kernels", f"{cache['kernels']} in {where}, {_size(cache['bytes'])}"))
    return rows


def backends(document: dict[str, Any]) -> Rows:
    """What every operation takes; formats that are alike in a row."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    counts: dict[str, int] = {}
    for each in document["backends"]:
        # a reason that names its format counts as the same for all
        why = each["why"].replace(each["format"], "it")
        groups.setdefault((each["operation"], each["backend"], why), []).append(each["format"])
        counts[each["operation"]] = counts.get(each["operation"], 0) + 1
    rows = []
    for (operation, backend, why), names in groups.items():
        every = len(names) == counts[operation]
        shown = f"all {len(names)}" if every and len(names) > 1 else " ".join(names)
        rows.append([operation, _BACKENDS[backend], shown, why])
    return ["operation", "backend", "formats", "why not a better one"], rows


def checked(document: dict[str, Any]) -> str:
    """How many cases were checked, and whether all were right."""
    found = document["checks"]
    if not found:
        return "kernels were not checked over shapes and types"
    cases, wrong = (sum(each[name] for each in found) for name in ("cases", "wrong"))
    result = f"{wrong:,} are wrong" if wrong else "all are right"
    return f"{cases:,} cases of {len(found)} kernels against NumPy: {result}"


def speeds(document: dict[str, Any]) -> Rows:
    """Speeds: a format a row, a kernel a column."""
    found = [(_column(each), each) for each in document["speeds"]]
    kernels = list(dict.fromkeys(column for column, _ in found))
    cells = {(each["format"], column): _speed(each) for column, each in found}
    names = dict.fromkeys(each["format"] for each in document["speeds"])
    rows = [[name, *(cells.get((name, kernel), "") for kernel in kernels)] for name in names]
    return ["format", *kernels], rows


def _column(each: dict[str, Any]) -> str:
    on_gpu = each["backend"] == "metal" and each["kernel"] in _ON_BOTH
    return f"{each['kernel']}, GPU" if on_gpu else str(each["kernel"])


def _speed(each: dict[str, Any]) -> str:
    if each["bytes_per_s"] is None:
        return f"{each['weights_per_s'] / 1e6:,.0f} M weights/s"
    if each["rows"] > _MANY:
        return f"{2 * each['rows'] * each['weights_per_s'] / 1e9:,.0f} GFLOP/s"
    share = f", {each['share']:.0%}" if each["share"] is not None else ""
    return f"{each['bytes_per_s'] / 1e9:.1f} GB/s{share}"


def _bandwidth(found: dict[str, Any]) -> str:
    told = [
        f"{found[name] / 1e9:.1f} GB/s {name}" for name in ("published", "measured") if found[name]
    ]
    return ", " + ", ".join(told) if told else ""


def _device(device: dict[str, Any]) -> str:
    if device["device"] is None:
        return "MLX does not work"
    metal = "" if device["metal"] else ", no Metal"
    return f"{device['device'].upper()} ({device['name']}){metal}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
