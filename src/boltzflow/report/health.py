"""How a flow learnt from energies alone: temperatures, weights, moves and modes of its rungs, against the energies that were spent."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from boltzflow.report.contents import Contents, is_number
from boltzflow.report.page import EMPTY, figure, percent, section, sentence, thousands

# A rung whose frames, effective sample size or acceptance are below these deserves a sentence.
_FEW, _POOR, _STUCK = 0.02, 0.02, 0.1
# A basin is lost when its share falls from more than the first to less than the second.
_SEEN, _LOST = 0.01, 0.001


class Panel(NamedTuple):
    """A curve of the figure.

    Attributes:
        title: above it.
        keys: figures of the log, with their names in the legend.
        percent: whether they are shares.
        logarithmic: whether the axis is.
    """

    title: str
    keys: Mapping[str, str]
    percent: bool = False
    logarithmic: bool = False


PANELS = (
    Panel("temperature / target's", {"temperature": ""}, logarithmic=True),
    Panel(
        "effective sample size / %",
        {
            "ess_of_rung": "of the flow at its temperature",
            "ess_of_step": "of the step to the next",
            "buffer_ess": "of the buffer",
            "ais_ess": "of annealed samples",
        },
        percent=True,
    ),
    Panel("frames of different samples / %", {"distinct": ""}, percent=True),
    Panel("acceptance of the moves / %", {"acceptance": ""}, percent=True),
    Panel("phi > 0 / %", {"phi_positive": ""}, percent=True),
    Panel("frames with a cis amide / %", {"cis": ""}, percent=True),
    Panel("weights cut off", {"truncated_weights": ""}),
)
"""What is drawn of what the log holds; `boltzflow.objectives` names the figures."""


def figures_of_rungs(run: Contents) -> Markup:
    """The section; empty where no stage made samples of its own to learn from."""
    lines = [line for line in run.metrics if any(is_number(line.get(key)) for panel in PANELS for key in panel.keys)]
    if not lines:
        return EMPTY
    spent = lines[-1].get("evaluations")
    parts = [f"{thousands(int(spent))} evaluations of the energy so far"] if is_number(spent) else []
    last = [line["temperature"] for line in lines if is_number(line.get("temperature"))]
    if last:
        parts.append(f"{len(last)} rungs, the last at {last[-1]:.3g} times the target's temperature")
    words = " ".join(warnings(lines))
    return section("From energies alone", figure(_drawn(lines), sentence(parts), "Health of the rungs against energies spent"), words=words)


def warnings(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences about what went wrong on a rung, or may have."""
    found = []
    rungs = [line for line in lines if is_number(line.get("temperature"))]
    basins = [line["phi_positive"] for line in rungs if is_number(line.get("phi_positive"))]
    for number, (before, after) in enumerate(zip(basins, basins[1:], strict=False), start=1):
        if before > _SEEN and after < _LOST:
            found.append(
                f"On rung {number} the basin phi > 0 fell from {percent(before)} to {percent(after)} of the frames; it may be lost."
            )
    for key, least, words in (
        ("ess_of_rung", _POOR, "of the samples of the flow counted"),
        ("distinct", _FEW, "of the frames stem from different samples"),
        ("acceptance", _STUCK, "of the moves were accepted"),
    ):
        values = [(number, line[key]) for number, line in enumerate(rungs) if is_number(line.get(key))]
        if values and (worst := min(values, key=lambda pair: pair[1]))[1] < least:
            found.append(f"On rung {worst[0]} {percent(worst[1])} {words}.")
    if rungs and rungs[-1]["temperature"] > 1.0:
        found.append(f"The last rung is at {rungs[-1]['temperature']:.3g} times the target's temperature: more steps would lead to it.")
    return found


def _drawn(lines: Sequence[Mapping[str, Any]]) -> str:
    from matplotlib import rc_context

    from boltzflow.report import figures

    shown = [panel for panel in PANELS if any(is_number(line.get(key)) for line in lines for key in panel.keys)]
    energies = all(is_number(line.get("evaluations")) for line in lines)
    with rc_context(figures.STYLE):
        columns = min(3, len(shown))
        drawing, all_axes = figures.draw(
            max(7.6, 3.3 * columns), 2.6 * math.ceil(len(shown) / columns), columns, math.ceil(len(shown) / columns)
        )
        for axes, panel in zip(all_axes, shown, strict=False):
            _curves(axes, lines, panel, "evaluations" if energies else "step")
        for axes in all_axes[len(shown) :]:
            axes.set_axis_off()
        return figures.svg(drawing)


def _curves(axes: Any, lines: Sequence[Mapping[str, Any]], panel: Panel, against: str) -> None:
    from boltzflow.report.figures import FLOW, REWEIGHTED

    factor = 100.0 if panel.percent else 1.0
    for (key, label), color in zip(panel.keys.items(), (REWEIGHTED, FLOW, REWEIGHTED, FLOW), strict=False):
        there = [(line[against], factor * line[key]) for line in lines if is_number(line.get(key))]
        if not there:
            continue
        x, y = np.array(there, float).T
        few = len(x) < 40
        axes.plot(
            x / (1e6 if against == "evaluations" else 1.0),
            y,
            color=color,
            linewidth=1.3,
            marker="o" if few else None,
            markersize=3,
            label=label,
        )
    axes.set(xlabel="energies / 10⁶" if against == "evaluations" else "step", title=panel.title)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0.0)
    if len(axes.get_lines()) > 1:
        axes.legend()
