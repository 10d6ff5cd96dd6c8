"""Figures of the report, each an SVG image in text.

Matplotlib's object-oriented interface only: no state that is shared with the user's own plots. The colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart: data grey, flow vermilion, reweighted blue.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from boltzflow.analysis.metrics import Histogram
from boltzflow.report.page import percent
from boltzflow.sampling import plots
from boltzflow.sampling.plots import DATA, FLOW, LIGHT, REWEIGHTED

STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters, a fifth of the size of outlines
    "svg.hashsalt": "boltzflow",  # the same run gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6570",
    "axes.labelcolor": "#222b33",
    "xtick.color": "#5b6570",
    "ytick.color": "#5b6570",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}
MAX_POINTS = 1500
"""Points of a curve; more do not show at the width of a page."""


def draw(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure of a size in inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns, **options)).ravel()


def svg(figure: Figure) -> str:
    """The figure as an SVG image."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def histograms(shown: Mapping[str, Histogram], xlabel: str, ylabel: str = "probability density") -> str:
    """Histograms on top of each other with their bands; the names "data", "flow" and "reweighted flow" have their colours.

    Args:
        shown: name to histogram, all with the same edges.
        xlabel: what is on the axis, with its unit.
        ylabel: what is on the other.
    """
    with rc_context(STYLE):
        figure, (axes,) = draw(7.6, 3.3)
        plots.draw_histograms(axes, shown)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend()
        return svg(figure)


def training(metrics: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Loss, divergence of a refinement, validation NLL, reverse ESS and learning rate, as far as there are any, against the step.

    Args:
        metrics: lines with "step" and either "loss" or "divergence", and perhaps "learning_rate".
        evaluations: lines with "step" and estimates "validation_nll" or "ess_reverse".
    """
    panels: list[tuple[str, str, float]] = []
    for key, label, factor in (("validation_nll", "validation NLL / nats", 1.0), ("ess_reverse", "reverse ESS / %", 100.0)):
        if any(_estimate(entry.get(key)) for entry in evaluations):
            panels.append((key, label, factor))
    curves = [
        (chosen, key, title)
        for key, title in (("loss", "training loss"), ("divergence", "refinement: divergence + constant"))
        if (chosen := [entry for entry in metrics if key in entry])
    ]
    rates = [
        (entry["step"], rate)
        for entry in metrics
        if isinstance(rate := entry.get("learning_rate"), int | float) and math.isfinite(rate) and rate > 0
    ]
    with rc_context(STYLE):
        count = len(panels) + len(curves) + bool(rates)
        columns = min(2, count) if count != 3 else 3
        rows = -(-count // columns)
        figure, all_axes = draw(max(7.6, 3.3 * columns), 2.8 * rows, columns=columns, rows=rows)
        remaining = list(all_axes)
        for chosen, key, title in curves:
            _curve(remaining.pop(0), chosen, key, title)
        for key, label, factor in panels:
            axes = remaining.pop(0)
            _estimates(axes, evaluations, key, factor)
            axes.set(xlabel="step", title=label)
        if rates:
            _learning_rate(remaining.pop(0), rates)
        for axes in remaining:
            axes.set_axis_off()
        return svg(figure)


def _learning_rate(axes: Axes, rates: Sequence[tuple[int, float]]) -> None:
    steps, values = np.array(rates, float).T
    stride = max(1, len(steps) // MAX_POINTS)
    axes.plot(steps[::stride], values[::stride], color=DATA, linewidth=1.4)
    axes.set(xlabel="step", title="learning rate", yscale="log" if values.max() > 20 * values.min() else "linear")
    if axes.get_yscale() == "linear":
        axes.set_ylim(0.0, 1.1 * values.max())
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _curve(axes: Axes, metrics: Sequence[Mapping[str, Any]], key: str, title: str) -> None:
    steps = np.array([entry["step"] for entry in metrics], float)
    loss = np.array([entry[key] for entry in metrics], float)
    stride = max(1, len(steps) // MAX_POINTS)
    axes.plot(steps[::stride], loss[::stride], color=LIGHT, linewidth=1.0, label="as logged")
    window = max(3, len(loss) // 40)
    if len(loss) >= 4 * window:
        medians = np.median(np.lib.stride_tricks.sliding_window_view(loss, window), axis=1)
        centers = steps[window // 2 : window // 2 + len(medians)]
        axes.plot(centers[::stride], medians[::stride], color=REWEIGHTED, linewidth=1.6, label=f"median of {window}")
        axes.legend()
    if loss.min() > 0 and loss.max() > 20 * loss.min():
        axes.set_yscale("log")
    else:
        # The first few steps are far above the rest and would flatten it.
        low, high = np.quantile(loss, [0.0, 0.99])
        axes.set_ylim(low - 0.08 * (high - low or 1.0), high + 0.15 * (high - low or 1.0))
    axes.set(xlabel="step", title=title)


def _estimates(axes: Axes, evaluations: Sequence[Mapping[str, Any]], key: str, factor: float) -> None:
    points = [(entry["step"], estimate) for entry in evaluations if (estimate := _estimate(entry.get(key)))]
    steps = np.array([step for step, _ in points], float)
    value, low, high = factor * np.array([estimate for _, estimate in points]).T
    axes.fill_between(steps, low, high, color=REWEIGHTED, alpha=0.2, linewidth=0)
    axes.plot(steps, value, color=REWEIGHTED, linewidth=1.6, marker="o", markersize=3.5)


def _estimate(entry: Any) -> tuple[float, float, float] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("value"), int | float):
        return None
    value = float(entry["value"])
    low, high = (value if not isinstance(entry.get(end), int | float) else float(entry[end]) for end in ("low", "high"))
    return (value, low, high) if math.isfinite(value) else None


def weight_distribution(log_w: Float[np.ndarray, " n"], pareto_k: float) -> str:
    """Histogram of the log-weights, and the tail of the weights on double-logarithmic axes.

    Args:
        log_w: (n,) log-weights, at least one of them finite.
        pareto_k: tail shape; NaN draws no line.
    """
    with rc_context(STYLE):
        figure, (left, right) = draw(7.6, 3.2, columns=2)
        beyond = plots.draw_log_weights(left, log_w)
        left.set_title(f"log-weights{f' ({percent(beyond)} further left)' if beyond > 0.005 else ''}")
        plots.draw_tail(right, log_w, pareto_k)
        right.set_title("tail of the weights")
        return svg(figure)


def planar_configurations(positions: Shaped[np.ndarray, "m N 2"], energies: Sequence[float], classes: Sequence[int], unit: str) -> str:
    """A few planar configurations side by side on the same scale.

    Args:
        positions: (m, N, 2), m up to 8.
        energies: (m,) reduced energies.
        classes: (N,) interchangeability classes, told apart by colour.
        unit: unit of length.
    """
    palette = np.array([REWEIGHTED, FLOW, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"])
    colors = palette[np.asarray(classes) % len(palette)]
    rows = 1 if len(positions) <= 4 else 2
    columns = math.ceil(len(positions) / rows)
    limit = 1.15 * float(np.abs(positions).max())
    with rc_context(STYLE):
        figure, all_axes = draw(1.9 * columns, 2.05 * rows + 0.35, columns=columns, rows=rows, sharex=True, sharey=True)
        for axes, configuration, energy in zip(all_axes, positions, energies, strict=False):
            pairs = np.stack(np.triu_indices(len(configuration), k=1), axis=1)
            axes.add_collection(LineCollection(list(configuration[pairs]), colors=LIGHT, linewidths=1.0, zorder=1))
            axes.scatter(*configuration.T, s=110, color=colors, edgecolor="white", linewidth=1.0, zorder=2)
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.set_title(f"u = {energy:.1f}", fontsize=9, loc="center")
        for axes in all_axes[len(positions) :]:
            axes.set_axis_off()
        figure.supxlabel(f"x / {unit}", fontsize=9)
        figure.supylabel(f"y / {unit}", fontsize=9)
        return svg(figure)
