"""Plots that answer questions: which format is best at its size, how much of what the memory
bandwidth allows is reached, and how memory grows with the context.

Each takes the results of one base model and gives a Plot, or None where there is too little to
draw. matplotlib is needed (the extra `plots`).
"""

from __future__ import annotations

from .plot_memory import memory
from .plot_quality import quality
from .plot_speed import speed
from .plot_style import Plot

__all__ = ["Plot", "memory", "quality", "speed"]
