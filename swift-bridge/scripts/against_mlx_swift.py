"""Compiles MLXQuantMLX against mlx-swift's own sources, on any machine with Swift: no Mac needed.

    python swift-bridge/scripts/against_mlx_swift.py MLX_SWIFT SWIFT_NUMERICS MLX_SWIFT_LM

The three are checkouts (without mlx-swift's submodules: a Swift module takes MLX's C headers, and
nothing is linked). What is compiled: mlx-swift's MLX and MLXNN; with them MLXQuantMLX, warnings as
errors; and with mlx-swift-lm's SwitchLayers.swift a property that takes both layers of experts.

The stand-ins of the tests claim the same signatures; for a new version of mlx-swift this is how
they are held to them, by hand.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "Sources"
#: of mlx-swift, what other systems do not compile
ELSEWHERE = ("GPU+CUDA.swift", "GPU+Metal.swift", "MLXArray+Metal.swift")
#: properties that take both layers of experts
EXPERTS = """
import MLX
import MLXLMCommon
import MLXNN
import MLXQuantMLX

extension SwitchLinear: @retroactive SwitchLayer {}

final class Experts: Module {
    @ModuleInfo(key: "up_proj") var up: any SwitchLayer

    override init() {
        _up.wrappedValue = SwitchLinear(inputDims: 64, outputDims: 64, numExperts: 2)
        super.init()
    }

    func callAsFunction(_ x: MLXArray, _ indices: MLXArray) -> MLXArray {
        up(x, indices, sortedIndices: false)
    }
}
"""


def compiled(flags: list[str], name: str, files: Iterable[Path], folder: Path, *more: str) -> None:
    """A module in `folder`; ends the program where it does not compile."""
    target = folder / f"{name}.swiftmodule"
    module = ("-module-name", name, "-emit-module", "-emit-module-path", str(target))
    command = ["swiftc", "-parse-as-library", "-wmo", *flags, *module, *more, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} does not compile:\n{done.stderr[-4000:]}")
    sys.stderr.write(f"{name} compiles\n")


def main(mlx: Path, numerics: Path, lm: Path) -> None:
    """Compile everything."""
    with tempfile.TemporaryDirectory(prefix="mlxquant-modules-") as name:
        folder = Path(name)
        shims = numerics / "Sources/_NumericsShims/include"
        include = (folder, shims, mlx / "Source/Cmlx/include")
        flags = [f"-I{path}" for path in include]
        # newer versions have the first of these
        for module in ("IntegerUtilities", "RealModule", "ComplexModule", "Numerics"):
            if (numerics / "Sources" / module).is_dir():
                compiled(flags, module, (numerics / "Sources" / module).rglob("*.swift"), folder)
        theirs = ("-swift-version", "5", "-suppress-warnings")
        for module in ("MLX", "MLXNN"):
            files = (mlx / "Source" / module).glob("*.swift")
            kept = [file for file in files if file.name not in ELSEWHERE]
            compiled(flags, module, kept, folder, *theirs)
        ours = ("-swift-version", "6", "-warnings-as-errors", "-package-name", "mlxquant")
        for module in ("MLXQuantFormats", "MLXQuantMLX"):
            compiled(flags, module, (SOURCES / module).rglob("*.swift"), folder, *ours)
        layers = lm / "Libraries/MLXLMCommon/SwitchLayers.swift"
        compiled(flags, "MLXLMCommon", [layers], folder, *theirs)
        (folder / "Experts.swift").write_text(EXPERTS, encoding="utf-8")
        compiled(flags, "Experts", [folder / "Experts.swift"], folder, "-swift-version", "6")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
