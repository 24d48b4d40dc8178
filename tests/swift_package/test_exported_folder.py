"""`export --to swift` as Swift sees it: its constants compile, its folder opens and adds up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from swift_package.toolchain import MARKS, program, tool

from mlxquant import export_swift, open_checkpoint, quantize, quantize_gguf
from mlxquant.measure.memory_model import Memory
from mlxquant.save.model_info import ModelInfo, source_of
from mlxquant.save.swift_names import KEYWORDS, identifiers

pytestmark = MARKS

MAIN = """\
func show(_ value: Any?) -> String { value.map { String(reflecting: $0) } ?? "nil" }

@main struct Main {
    static func main() {
        print(ModelInfo.name.utf8.map(Int.init))
        print(show(ModelInfo.tokenizerClass), show(ModelInfo.contextLength), ModelInfo.formats)
        print(ModelInfo.parameters, ModelInfo.weightBytes, ModelInfo.endTokens)
        print(ModelInfo.hasChatTemplate, ModelInfo.memory.map(\\.total))
        print(show(ModelInfo.memory(within: 1_000)?.context), show(ModelInfo.memory(within: 9)))
        print([%s])
    }
}
"""

GGUF_MAIN = """\
@main struct Main {
    static func main() {
        print(ModelInfo.name)
        print(ModelInfo.endTokens)
        print(ModelInfo.hasChatTemplate)
        print(ModelInfo.memory.map(\\.context).last ?? 0)
    }
}
"""


def info(name: str, tokens: list[str]) -> ModelInfo:
    return ModelInfo(
        type_name="ModelInfo",
        runner="mlx-swift",
        name=name,
        model_type="llama",
        tokenizer_class=None,
        parameters=1234567,
        nbytes=42,
        formats=("Q4_K", "bf16"),
        context=None,
        vocabulary=32,
        layers=1,
        end_tokens=(2, 1_000_000),
        special_tokens=dict(enumerate(tokens)),
        has_chat_template=False,
        manifest="0" * 64,
        memory={64: Memory(100, 200, 300), 4096: Memory(100, 2000, 300)},
    )


def compiled(source: str, main: str, folder: Path) -> list[str]:
    """What a program of these two files prints."""
    (folder / "ModelInfo.swift").write_text(source, encoding="utf-8")
    (folder / "Main.swift").write_text(main, encoding="utf-8")
    options = ["-swift-version", "6", "-warnings-as-errors", "-o", "main"]
    done = subprocess.run(
        [tool("swiftc"), *options, "ModelInfo.swift", "Main.swift"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout
    return printed.splitlines()


def test_constants_compile_whatever_names_there_are(tmp_path: Path) -> None:
    """Names that end comments and literals, keywords, the same one twice, none that is a word."""
    name = 'a "model"\\(x)\n*/ }\t\0 é 🙂'
    tokens = [*sorted(KEYWORDS), "<|im_end|>", "</s>", "<s>", "<s>", "🙂", "", "<|0|>", '"\n*/']
    names = identifiers(tokens)
    shown = ", ".join(f"ModelInfo.Token.{each}" for each in names)
    made = info(name, tokens)
    assert source_of(made, "0.1.0") == source_of(info(name, tokens), "0.1.0")
    lines = compiled(source_of(made, "0.1.0"), MAIN % shown, tmp_path)
    assert bytes(json.loads(lines[0])).decode() == name
    assert lines[1] == 'nil nil ["Q4_K", "bf16"]'
    assert lines[2] == "1234567 42 [2, 1000000]"
    assert lines[3] == "false [600, 2400]"
    assert lines[4] == "64 nil"
    assert json.loads(lines[5]) == list(range(len(tokens)))


def test_the_folder_opens_and_adds_up(tmp_path: Path) -> None:
    quantize(output=tmp_path / "books", recipe="mixed_4_6")
    export_swift(tmp_path / "books", tmp_path / "app")
    tool = program("mlxquant-swift")
    done = subprocess.run(
        [tool, "verify", tmp_path / "app"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no problem found" in done.stdout
    inspected = subprocess.run(
        [tool, "inspect", tmp_path / "app"], capture_output=True, text=True, check=True
    ).stdout
    formats = {tensor.format for tensor in open_checkpoint(tmp_path / "books").tensors.values()}
    assert {"affine4-g64", "affine6-g64", "bf16"} == formats
    for name in ("affine4-g64", "affine6-g64", "7,344,384"):
        assert name in inspected
    # a changed bit is found
    weights = tmp_path / "app/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    spoilt = subprocess.run([tool, "verify", tmp_path / "app"], capture_output=True, check=False)
    assert spoilt.returncode == 1


def test_a_gguf_file_in_a_folder_runs(tmp_path: Path) -> None:
    """What is said with the folder is what is said with the file; the folder adds up."""
    quantize_gguf(output=tmp_path / "books.gguf", request="Q4_K_M")
    export_swift(tmp_path / "books.gguf", tmp_path / "app")
    tool = program("mlxquant-swift")

    def said(*arguments: object) -> str:
        return subprocess.run(
            [tool, *map(str, arguments)], capture_output=True, text=True, check=True
        ).stdout

    options = ("--prompt", "Once upon a time", "--max-tokens", 12, "--temp", 0)
    text = said("generate", tmp_path / "app", *options)
    assert text.strip() and text == said("generate", tmp_path / "books.gguf", *options)
    assert "GGUF 3" in said("inspect", tmp_path / "app")
    assert "no problem found" in said("verify", tmp_path / "app")
    lines = compiled((tmp_path / "app/ModelInfo.swift").read_text(), GGUF_MAIN, tmp_path)
    assert lines == ["books", "[4091, 4094]", "true", "512"]
    # a changed bit is found, and so is a file that is not the manifest's
    weights = tmp_path / "app/books.gguf"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    spoilt = subprocess.run([tool, "verify", tmp_path / "app"], capture_output=True, check=False)
    assert spoilt.returncode == 1
    (tmp_path / "app/other.gguf").write_bytes(bytes(data))
    two = subprocess.run([tool, "inspect", tmp_path / "app"], capture_output=True, check=False)
    assert two.returncode == 2 and b"2 GGUF models" in two.stderr
