"""The Metal sources: whole, consistent with mlxquant/formats, and refused where Metal refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from formats.ggml_golden import ggml_format
from mlxquant.kernels import metal, tables
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import DEQUANTIZE, ENCODERS, FORMATS, ROWS, call, header
from support import REPOSITORY

from mlxquant.formats.ggml_mxfp4 import TWICE_E2M1
from mlxquant.formats.grids import grid
from mlxquant.formats.iq4_nl import CHANGES, EDGES, LEVELS
from mlxquant.formats.iq4_xs import DIVISORS
from mlxquant.formats.k_mins import RANGES
from mlxquant.formats.k_scales import LEVELS as K_LEVELS
from mlxquant.formats.scale_search import BESIDE, TRIMS, edges_of

FOLDER = REPOSITORY / "kernels"
SHARED = {
    *("affine_search", "blocks", "codebook", "dequantize", "e2m1", "k_scales", "lanes"),
    *("gather", "matmul", "matvec", "parts"),
    *("encode", "encode_levels", "encode_plain", "scale_search", *ENCODERS.values()),
    *("encode_k", "encode_k_bytes", "encode_k_mins", "encode_k_scales"),
}
#: the tables of floats, and the arrays that they are written from
FLOATS = {
    "IQ4_NL_LEVELS": LEVELS,
    "E2M1_LEVELS": TWICE_E2M1,
    "Q4_0_EDGES": edges_of(8),
    "Q5_0_EDGES": edges_of(16),
    "IQ4_NL_EDGES": EDGES,
    "IQ4_NL_CHANGES": CHANGES,
    "IQ4_XS_DIVISORS": DIVISORS,
    "AFFINE_TRIMS": TRIMS,
    "AFFINE_BESIDE": BESIDE,
    "Q2_K_RANGES": RANGES[3],
    "Q3_K_LEVELS": K_LEVELS[4],
    "Q4_K_RANGES": RANGES[15],
    "Q5_K_RANGES": RANGES[31],
    "Q6_K_LEVELS": K_LEVELS[32],
}
QUALIFIERS = r"(device|constant|threadgroup|thread)\s+"
TYPES = r"(?:u?char|u?short|u?int|u?long|float|half|bfloat|T|uint\d|float\d)"

every_format = pytest.mark.parametrize("name", FORMATS)


def code_of(path: Path) -> str:
    """A file without its comments."""
    return re.sub(r"//.*", "", path.read_text(encoding="utf-8"))


def unqualified(code: str) -> list[str]:
    """Pointers and references that do not say into which memory."""
    found = re.finditer(rf"(?:{QUALIFIERS})?\b{TYPES}\s*[*&]\s*(?=\w|>)", code)
    return [match[0] for match in found if not match[1]]


def members_of_any_memory(code: str) -> list[str]:
    """Member functions that do not say that their object is a thread's own."""
    kinds = r"(?:[\w<>:,]+ )+(?:\w+|operator\S+)"
    return re.findall(rf"^ +(?!static ){kinds}\([^;{{}}]*\)(?: const)? {{", code, re.MULTILINE)


def refusal(clang: Compiler, text: str) -> str:
    """What the compiler says against a translation unit; empty where it takes it."""
    command = [clang.path, "-x", "c++", "-std=c++17", "-w", "-fsigned-char", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(done.stderr)
    return done.stderr


def constants(name: str) -> dict[str, int]:
    """The integers that a format's struct, or what it derives from, declares."""
    text = header(name)
    own = re.search(rf"struct {name} : (\w+)<{name}> {{(.*?)\n}};", text, re.DOTALL)
    assert own
    base = re.search(rf"struct {own[1]} : Decoded<Format> {{(.*?)\n}};", text, re.DOTALL)
    assert base
    lines = re.findall(r"static constant constexpr int (.*);", base[1] + own[2])
    pairs = (item.split(" = ") for line in lines for item in line.split(", "))
    return {key: int(value) for key, value in pairs}


def test_every_file_is_a_format_or_shared() -> None:
    files = {path.stem for path in FOLDER.glob("*.metal")}
    assert files == {name.lower() for name in FORMATS} | SHARED


@every_format
def test_sizes_are_the_format_s(name: str) -> None:
    fmt, found = ggml_format(name), constants(name)
    assert (found["weights"], found["bytes"]) == (fmt.block_size, fmt.block_bytes)
    assert found["align"] == np.gcd(fmt.block_bytes, 4)
    # metal.py reckons with it
    assert found["chunk"] == 32
    assert found["weights"] % found["chunk"] == found["chunk"] % found["run"] == 0
    # and parts.metal with four neighbours, and with a scale for whole runs of codes
    assert found["run"] % 8 == found["stride"] % 8 == 0
    assert found["chunk"] % found["group"] == 0


@every_format
def test_the_drawing_is_the_format_s(name: str) -> None:
    """The first lines of the .metal file are those of the Python file's docstring."""
    fmt = ggml_format(name)
    module = Path(str(__import__(type(fmt).__module__, fromlist=["x"]).__file__))
    drawn = [line.strip() for line in module.read_text().splitlines() if "│" in line]
    text = (FOLDER / f"{name.lower()}.metal").read_text()
    assert [line[2:].strip() for line in text.splitlines() if "│" in line] == drawn


@every_format
def test_each_file_comes_once(name: str) -> None:
    text = header(name, DEQUANTIZE, ROWS)
    assert "#include" not in text
    for what in (
        "struct InOrder",
        "inline T rounded",
        f"struct {name} ",
        "inline void dequantize(",
    ):
        assert text.count(what) == 1, what


def test_tables_hold_the_arrays() -> None:
    for name in tables.NAMES:
        text = tables.table(name)
        size = int(re.findall(r"\[(\d+)\] = ", text)[0])
        body = text[text.index("{") + 1 : text.index("}")].replace("\n", " ").split(",")
        values = [item.strip() for item in body]
        assert len(values) == size, name
        if not name.endswith("_GRID"):
            wanted = np.asarray(FLOATS[name], np.float32).ravel()
            np.testing.assert_array_equal(np.float32([v.rstrip("f") for v in values]), wanted)
            continue
        points = grid(name.removesuffix("_GRID"))
        words = np.array([int(v, 16) for v in values])[:, None]
        if name == "IQ1_S_GRID":
            unpacked = (words >> np.arange(0, 16, 2) & 3) - 1
        else:
            unpacked = words >> np.arange(0, 32, 8) & 255
        np.testing.assert_array_equal(unpacked.reshape(points.shape), points)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.metal")), ids=lambda path: path.stem)
def test_every_pointer_names_its_memory(path: Path) -> None:
    """Also `thread`, which the host's compiler does not miss: it is what C++ takes for granted."""
    assert unqualified(code_of(path)) == []


def test_a_pointer_that_names_no_memory_is_noticed() -> None:
    """Of a template's `T*`, too, which C++ takes for a pointer into any space."""
    code = code_of(FOLDER / "dequantize.metal")
    for right, wrong in (("device T* out", "T* out"), ("const device uchar* wire", "uchar* wire")):
        assert right in code
        assert len(unqualified(code.replace(right, wrong, 1))) == 1
    code = code_of(FOLDER / "codebook.metal")
    assert unqualified(code.replace("thread float* q", "float* q")) == ["float* "] * 2


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.metal")), ids=lambda path: path.stem)
def test_every_member_function_names_its_memory(path: Path) -> None:
    """From Metal 4.1 (macOS 27) on, `this` points anywhere where a function does not say `thread`,
    and what is in its object cannot be handed on as a thread's own."""
    assert members_of_any_memory(code_of(path)) == []


def test_a_member_function_that_names_no_memory_is_noticed() -> None:
    for file in ("blocks", "encode_k", "lanes", "matmul", "matvec"):
        code = code_of(FOLDER / f"{file}.metal")
        for right, wrong in ((") thread {", ") {"), (") const thread {", ") const {")):
            count = code.count(right)
            assert len(members_of_any_memory(code.replace(right, wrong))) == count


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.metal")), ids=lambda path: path.stem)
def test_no_function_calls_itself(path: Path) -> None:
    """Metal knows no recursion, but that of templates."""
    function = re.compile(r"^\S[^\n(]*\b(\w+)\([^;{}]*\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
    for name, body in function.findall(code_of(path)):
        assert not re.search(rf"(?<![\w.:]){name}(<[^;(]*>)?\(", body), name


@every_format
def test_the_compiler_takes_it_without_warnings(name: str, clang: Compiler) -> None:
    text = entries.program(name).replace("const constant", "constant")
    command = [clang.path, "-x", "c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra"]
    quiet = ("-Wno-unused-parameter", "-Wno-unused-function")
    done = subprocess.run(
        [*command, *quiet, "-Werror", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("static void decode(const device uchar*", "static void decode(const uchar*"),
        ("static void decode(const device uchar*", "static void decode(const constant uchar*"),
        ("const device uchar* block, int", "const uchar* block, int"),
        ("inline uint load16(const device uchar*", "inline uint load16(const uchar*"),
        ("reinterpret_cast<const device uint*>", "reinterpret_cast<const uint*>"),
        ("int part, device T* out", "int part, threadgroup T* out"),
        ("int part, thread float* w)", "int part, device float* w)"),
        ("device T* begin = out", "thread T* begin = out"),
    ],
)
def test_missing_and_mixed_qualifiers_are_refused(right: str, wrong: str, clang: Compiler) -> None:
    text = entries.program("Q4_K")
    assert refusal(clang, text) == ""
    assert right in text
    assert "error" in refusal(clang, text.replace(right, wrong))


@pytest.mark.parametrize(
    "code",
    [
        "void f(device float* a, thread float* b) { b = a; }",
        "void f(constant float* a) { a[0] = 1; }",
        "void f(device float* a, threadgroup float* b) { a = b; }",
        "void f(threadgroup float* a, const device float* b) { b = a; }",
        "void f(constant float* a, const device float* b) { b = a; }",
        "void g(device float& a); void f() { float b; g(b); }",
        "constant float table[2] = {1, 2}; void f(thread float* a) { a = table; }",
        "constant float table[2] = {1, 2}; void f() { table[0] = 1; }",
    ],
)
def test_the_shim_refuses(code: str, clang: Compiler) -> None:
    shim = (FOLDER / "host" / "shim.h").read_text()
    assert refusal(clang, shim) == ""
    assert "error" in refusal(clang, shim + code)


def test_the_shim_s_types_are_metal_s(clang: Compiler) -> None:
    shim = (FOLDER / "host" / "shim.h").read_text()
    sizes = {"char": 1, "ushort": 2, "half": 2, "bfloat": 2, "uint": 4, "float": 4, "ulong": 8}
    sizes |= {"float2": 8, "float3": 16, "half4": 8, "uint4": 16, "uchar4": 4, "device float*": 8}
    lines = [f"static_assert(sizeof({name}) == {size});" for name, size in sizes.items()]
    lines += [
        "float4 turned(float4 v) { return v.wzyx + float4{1, 2, 3, 4} * v.x; }",
        "static_assert(as_type<uint>(1.0f) == 0x3F800000 && as_type<ushort>(half(1)) == 0x3C00);",
    ]
    shim = shim.replace("inline To as_type", "constexpr To as_type")
    assert refusal(clang, shim + "\n".join(lines)) == ""


@every_format
def test_mlx_takes_the_kernels(name: str) -> None:
    """The object is made from the same text; it is compiled on a Mac, when it is called."""
    for kernel in (DEQUANTIZE, ROWS):
        for dtype in ("float32", "float16", "bfloat16"):
            assert callable(metal.kernel_of(name, kernel, dtype))
        body = call(name, kernel)
        assert f"<{name}>" in body
        assert ("wire_shape" in body) == (kernel is ROWS)


def test_the_package_does_not_import_mlx() -> None:
    code = "import mlxquant.kernels.metal, sys; print(*{n.partition('.')[0] for n in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" in found.stdout.split()
    assert "mlx" not in found.stdout.split()
