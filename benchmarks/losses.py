"""What does the bundled model lose in every format that `mlxquant recommend` offers?

    python benchmarks/losses.py --out mlxquant/assets/results/books-7m.json

Makes each format, of MLX's and of llama.cpp's types, and measures its divergence from the model as
it is. `recommend` ships with the result: for the bundled model it is the measurement, for others
the estimate's scale (mlxquant/measure/expected_loss.py).
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.load.from_hf import open_folder
from mlxquant.measure.candidates import gguf_candidates, mlx_candidates
from mlxquant.measure.memory_model import Footprint
from mlxquant.models.header_model import header_model

PROGRAM = Path(sys.executable).parent / "mlxquant"


def main() -> None:
    """Make every format, and measure them all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    footprint = Footprint(header_model(open_folder(BUNDLED_MODEL, quick=True)))
    formats = mlx_candidates(footprint)[0] + gguf_candidates(footprint)
    with tempfile.TemporaryDirectory(prefix="losses-") as folder:
        made = []
        for each in formats:
            command = shlex.split(each.command(None))[1:]
            print(" ".join(command), file=sys.stderr, flush=True)
            subprocess.run([PROGRAM, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)
            made.append(Path(folder, command[command.index("-o") + 1]))
        options = ["--reference", str(BUNDLED_MODEL), "--windows", str(given.windows)]
        subprocess.run([PROGRAM, "eval", *made, *options, "-o", given.out, "--resume"], check=True)


if __name__ == "__main__":
    main()
