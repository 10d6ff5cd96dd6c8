"""What the figures of the site have in common: colours that colour-blind readers can tell apart, on light pages and on dark ones."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure

GREY, VERMILION, BLUE, GREEN, PALE = "#7a8590", "#d55e00", "#3a8fd0", "#009e73", "#aab4be"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "boltzflow",  # the same figure gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.titlesize": 10,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
}
rcParams.update(STYLE)


def drawn(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure of a size in inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns, **options))


def saved(figure: Figure, name: str) -> None:
    """Writes a figure beside the scripts as SVG."""
    path = Path(__file__).parent / f"{name}.svg"
    figure.savefig(path, dpi=200, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    print(path)
