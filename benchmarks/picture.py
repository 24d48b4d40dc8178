"""Draws docs/demo.svg: the terminal of `make demo`, with the demo's real output.

python benchmarks/picture.py [--out docs/demo.svg]
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text


def main() -> None:
    """Run the demo and draw what it printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/demo.svg"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "mlxquant.demo"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.rstrip().splitlines()
    console = Console(record=True, width=max(map(len, lines)) + 2, file=io.StringIO())
    console.print(Text("$ make demo", style="bold green"))
    for line in lines:
        console.print(Text(line, style="bold cyan" if line.startswith("$ ") else ""))
    svg = console.export_svg(title="mlxquant", theme=MONOKAI)
    # the page that shows the picture brings its own monospaced font
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    out.write_text(svg, encoding="utf-8")
    print(f"{out}: {len(lines)} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
