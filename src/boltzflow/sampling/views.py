"""Configurations in three dimensions, to turn and to page through: those of the report, and of `Samples.view` in a notebook.

Drawn by plotly's JavaScript, which comes with the Python package and is put into the page, so that a view works offline.
"""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from boltzflow import extras, files
from boltzflow.analysis import correlation, weights
from boltzflow.analysis.observables import pair_distances
from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples
from boltzflow.targets import description

# The colours of Corey, Pauling and Koltun, white a little darker for a white page.
ELEMENTS = {
    **{"H": "#e8e8e8", "C": "#4a4a4a", "N": "#2f4fe0", "O": "#e8160c", "S": "#f0c800", "P": "#ff8000", "F": "#7fd34e", "Cl": "#1fb01f"},
    **{"Br": "#99221a", "I": "#7a00a0", "B": "#ffa0a0", "Si": "#c8a078", "Se": "#d98c00", "Na": "#8a5cd6", "K": "#7d3fc0"},
    **{"Li": "#b070e0", "Mg": "#2f8f2f", "Ca": "#6a9a6a", "Fe": "#d86a20", "Zn": "#7d80b0", "Cu": "#c88033", "Ar": "#60c8d8"},
}
OTHER_ELEMENT = "#e060a0"
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"]


def representatives(samples: Samples, count: int = 8) -> Int[np.ndarray, " m"]:
    """Indices of a few samples drawn with their weights, none twice; of any finite ones where no sample has weight."""
    finite = np.flatnonzero(np.isfinite(samples.positions).all(axis=(1, 2)))
    try:
        drawn = weights.resample_indices(samples.log_weight, 4 * count, seed=0)
    except DataError:
        return finite[correlation.spread(finite.size, count)]
    unique = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return unique[np.isin(unique, finite)][:count]


class View:
    """Configurations that can be turned, with a slider over them. A notebook shows it; `html` is a page of its own, `save` writes it.

    Example:
        >>> shown = samples.view(4)
        >>> len(shown.figure["layout"]["sliders"][0]["steps"])
        4
        >>> shown.save("view.html").name
        'view.html'

    Attributes:
        figure: the traces and the layout of the view, as plotly's JavaScript takes them.
        legend: elements and their colours; empty where the particles are no atoms.
    """

    def __init__(self, figure: dict[str, Any], legend: Sequence[tuple[str, str]]) -> None:
        """Keeps what is shown.

        Args:
            figure: traces ("data") and "layout".
            legend: elements and their colours.
        """
        self.figure = figure
        self.legend = list(legend)

    @property
    def html(self) -> str:
        """A page that needs nothing else, no network either; 5 MB, nearly all of it plotly's JavaScript.

        Raises:
            MissingExtraError: if plotly, of the extra `report`, is not installed.
        """
        dots = "".join(f'<span><i style="background:{color}"></i>{html.escape(symbol)}</span>' for symbol, color in self.legend)
        content = json.dumps(self.figure, allow_nan=False).replace("</", "<\\/")
        return _PAGE.replace("LEGEND", dots).replace("FIGURE", content).replace("PLOTLY", javascript())

    def save(self, path: str | Path) -> Path:
        """Writes the page.

        Args:
            path: the file, .html.

        Returns:
            The path.

        Raises:
            RunError: if it cannot be written.
        """
        path = files.named(path)
        files.require_writable(path)
        files.replace(path, self.html)
        return path

    def _repr_html_(self) -> str:
        """For notebooks: the page in a frame, so that neither has a hand in the other."""
        style = f"width:100%;height:{_HEIGHT}px;border:0"
        return f'<iframe title="3-D view" style="{style}" srcdoc="{html.escape(self.html, quote=True)}"></iframe>'


_HEIGHT = 460
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>samples</title><style>
body { margin: 0; background: #fff; color: #222b33; font: 13px system-ui, sans-serif; }
#view { height: 420px; }
.legend { margin: 6px 10px 0; } .legend span { margin-right: 12px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 4px; border: 1px solid #aab2ba; }
</style></head><body><p class="legend">LEGEND</p><div id="view" role="img" aria-label="Three-dimensional view of samples"></div>
<script>PLOTLY</script><script>
var place = document.getElementById("view"), canvas = document.createElement("canvas"), figure = FIGURE;
if (canvas.getContext("webgl") || canvas.getContext("experimental-webgl")) {
  Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false});
} else { place.textContent = "The 3-D view needs WebGL, which this browser does not offer; open it in another one."; }
</script></body></html>
"""


def javascript() -> str:
    """Plotly's JavaScript, as its package ships it.

    Raises:
        MissingExtraError: if it is not installed.
    """
    with extras.of("report", "a 3-D view"):
        from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def view(samples: Samples, n: int = 8) -> View:
    """A few samples in three dimensions, drawn with their weights so that they look like the target; those in the plane lie flat.

    Drag to turn, scroll to zoom, move the slider for another one. Atoms have the colours of their elements and lines along bonds; other
    particles are joined to their neighbours. Shown in a notebook; `.save("view.html")` writes a page.

    Args:
        samples: of a flow; the molecule is in what they carry.
        n: how many, none twice.

    Raises:
        DataError: if n is not positive, the samples have more than three dimensions, or none of them is finite.
        MissingExtraError: when it is shown, if plotly, of the extra `report`, is not installed.
    """
    dimension = samples.positions.shape[2]
    if n < 1:
        raise DataError(f"the number of samples to show must be at least 1, got {n}.")
    if dimension > 3:
        raise DataError(f"samples in {dimension} dimensions cannot be shown in three.")
    chosen = representatives(samples, n)
    if not len(chosen):
        raise DataError("none of these samples is finite, so that there is nothing to show.")
    positions = np.pad(np.asarray(samples.positions[chosen], np.float64), ((0, 0), (0, 0), (0, 3 - dimension)))
    text = samples.meta.get("molecule")
    known = description.read(str(text)) if text else None
    if known is not None and known.elements:
        kinds, bonds = list(known.elements), list(known.bonds)
    else:
        kinds, bonds = list(known.classes) if known is not None else [0] * positions.shape[1], None
    unit = str(samples.meta.get("units", "reduced"))
    unit = {"nm": "nm", "angstrom": "Å"}.get(unit, f"{unit} units")
    return View(figure_of(positions, [float(u) for u in samples.u[chosen]], kinds, bonds, unit), legend(kinds))


def figure_of(
    positions: Shaped[np.ndarray, "m N 3"],
    energies: Sequence[float],
    kinds: Sequence[int] | Sequence[str],
    bonds: Sequence[tuple[int, int]] | None,
    unit: str,
) -> dict[str, Any]:
    """Traces and layout of a view that can be turned, with a slider over the configurations.

    Args:
        positions: (m, N, 3) configurations.
        energies: (m,) reduced energies.
        kinds: (N,) interchangeability classes or element symbols, told apart by colour.
        bonds: pairs of bonded particles; None joins neighbours.
        unit: unit of length.
    """
    size = f"about {2 * float(np.median(np.linalg.norm(positions, axis=2).max(axis=1))):.2g} {unit} across"
    traces: list[dict[str, Any]] = []
    for k, configuration in enumerate(positions):
        traces += [_bonds(configuration, bonds, k == 0), _particles(configuration, kinds, unit, k == 0)]
    steps = [
        {
            "method": "update",
            "label": str(k + 1),
            "args": [{"visible": [i // 2 == k for i in range(len(traces))]}, {"title.text": _title(k, energies, size)}],
        }
        for k in range(len(positions))
    ]
    limit = 1.08 * float(np.abs(positions).max())
    axis = {"visible": False, "range": [-limit, limit]}
    layout = {
        "title": {"text": _title(0, energies, size), "font": {"size": 14}, "x": 0.02},
        "showlegend": False,
        "margin": {"l": 0, "r": 0, "t": 40, "b": 0},
        "font": {"family": "system-ui, sans-serif", "color": "#222b33", "size": 11},
        "scene": {
            "aspectmode": "cube",
            "camera": {"eye": {"x": 0.95, "y": 0.95, "z": 0.6}},
            **{name: axis for name in ("xaxis", "yaxis", "zaxis")},
        },
        "sliders": [{"steps": steps, "currentvalue": {"prefix": "sample "}, "pad": {"t": 8, "b": 8, "l": 8, "r": 8}}],
    }
    return {"data": traces, "layout": layout}


def legend(kinds: Sequence[int] | Sequence[str]) -> list[tuple[str, str]]:
    """Elements and their colours; empty where the particles are no atoms."""
    symbols = sorted({kind for kind in kinds if isinstance(kind, str)}, key=lambda symbol: (symbol != "C", symbol != "H", symbol))
    return [(symbol, _element_color(symbol)) for symbol in symbols]


def _element_color(symbol: str) -> str:
    return ELEMENTS.get(symbol, OTHER_ELEMENT)


def _title(k: int, energies: Sequence[float], size: str) -> str:
    energy = f" u = {energies[k]:.1f} kT," if math.isfinite(energies[k]) else ""
    return f"sample {k + 1}:{energy} {size}".replace("-", "−")


def _particles(configuration: Shaped[np.ndarray, "N 3"], kinds: Sequence[int] | Sequence[str], unit: str, visible: bool) -> dict[str, Any]:
    n = len(configuration)
    size = float(np.clip(60.0 / n ** (1 / 3), 8.0, 26.0))
    # One kind of particle that is no atom: shade by the distance from the centre, which shows what lies inside. Several: one colour each.
    names = [f"{kind} {i + 1}" if isinstance(kind, str) else f"particle {i + 1}" for i, kind in enumerate(kinds)]
    if len(set(kinds)) == 1 and not isinstance(kinds[0], str):
        radius = np.linalg.norm(configuration, axis=1)
        scale = [[0.0, "#d55e00"], [0.5, "#e9b44c"], [1.0, "#0072b2"]]
        marker: dict[str, Any] = {"color": np.round(radius, 3).tolist(), "colorscale": scale}
    else:
        marker = {"color": [_element_color(kind) if isinstance(kind, str) else PALETTE[kind % len(PALETTE)] for kind in kinds]}
    x, y, z = np.round(configuration.astype(float), 4).T.tolist()
    return {
        "type": "scatter3d",
        "mode": "markers",
        "x": x,
        "y": y,
        "z": z,
        "visible": visible,
        "marker": {"size": size, "opacity": 1.0, "line": {"color": "#ffffff", "width": 1}, **marker},
        "text": names,
        "hovertemplate": "%{text}<br>(%{x:.2f}, %{y:.2f}, %{z:.2f}) " + unit + "<extra></extra>",
    }


def _neighbours(configuration: Shaped[np.ndarray, "N 3"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Pairs closer than 1.35 times the typical nearest distance; lines between them give the eye depth."""
    distances = pair_distances(configuration)
    first, second = np.triu_indices(len(configuration), k=1)
    square = np.full((len(configuration),) * 2, np.inf)
    square[first, second] = square[second, first] = distances
    near = distances < 1.35 * np.median(square.min(axis=1))
    return first[near], second[near]


def _bonds(configuration: Shaped[np.ndarray, "N 3"], bonds: Sequence[tuple[int, int]] | None, visible: bool) -> dict[str, Any]:
    """Lines along the bonds, or between neighbours where there are none."""
    first, second = _neighbours(configuration) if bonds is None else np.array(bonds, np.int64).reshape(-1, 2).T
    lines = np.full((len(first), 3, 3), np.nan)
    ends, other = configuration[first], configuration[second]
    # Short of the centres, or the lines would show through the particles.
    lines[:, 0], lines[:, 1] = ends + 0.15 * (other - ends), other + 0.15 * (ends - other)
    x, y, z = ([None if np.isnan(value) else round(float(value), 4) for value in column] for column in lines.reshape(-1, 3).T)
    line = {"color": "#aab2ba", "width": 4}
    return {"type": "scatter3d", "mode": "lines", "x": x, "y": y, "z": z, "visible": visible, "line": line, "hoverinfo": "skip"}
