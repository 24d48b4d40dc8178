"""Files that ship with mlxquant: the bundled model and texts, used wherever none is named."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLED_MODEL", "BUNDLED_TEXT", "CALIBRATION_TEXT", "OTHER_TEXT", "RESULTS"]

#: `books-7m`, a 7.3 M-parameter Llama-architecture model; its README.md is the model card
BUNDLED_MODEL = Path(__file__).parent / "books-7m"

#: English prose that the bundled model was not trained on
BUNDLED_TEXT = Path(__file__).parent / "text" / "eval.txt"

#: prose by another author that the bundled model was not trained on, to measure on a second time
OTHER_TEXT = Path(__file__).parent / "text" / "eval-other.txt"

#: prose from the bundled model's training, to calibrate on; never measured on
CALIBRATION_TEXT = Path(__file__).parent / "text" / "calibration.txt"

#: what was measured of the bundled model, as documents of results
RESULTS = Path(__file__).parent / "results"
