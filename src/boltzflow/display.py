"""What objects show of themselves in a notebook: key figures as a small table with their intervals, and one thumbnail plot."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = tuple[str, Any] | tuple[str, Any, Any]
"""A name, a value and perhaps an interval; text as it is, which is escaped here."""

LABELS = {
    "nll": "NLL",
    "nll_minus_entropy": "NLL - entropy (KL divergence)",
    "ess_reverse": "reverse ESS",
    "ess_forward": "forward ESS",
    "ess_reverse_trimmed": "reverse ESS without the top 0.2 % of weights (as published)",
    "ess_forward_trimmed": "forward ESS without the top 0.2 % of weights (as published)",
    "nll_one_draw": "NLL, one draw of the copies",
    "ess_reverse_marginal": "reverse ESS, copies averaged out",
    "ess_of_draws": "ESS of the draws of the copies",
    "log_z": "log Z",
    "log_z_bar": "log Z, with frames (Bennett's ratio)",
    "eubo": "EUBO (above log Z)",
    "path_length": "path length",
    "nfe": "network evaluations",
    "pareto_k": "Pareto k of the weights' tail",
    "solver_error": "error of log q by the solver (rms)",
    "failed": "failed samples",
    "other_stereoisomer": "samples of another stereoisomer",
    "seconds_per_1000": "seconds for 1000 samples",
    "seconds_compile": "seconds to compile",
}
"""What the figures of an evaluation are called."""

SHARES = ("ess_reverse", "ess_forward", "ess_reverse_trimmed", "ess_forward_trimmed", "ess_reverse_marginal", "ess_of_draws")
"""Those that are shown in per cent."""

SCORES = {
    "e_w2": "E-W2 / kT",
    "distance_w2": "pair-distance W2",
    "t_w2": "T-W2 / rad",
    "tica_w2": "TICA-W2",
    "aligned_w2": "aligned W2",
    "ramachandran_tv": "Ramachandran total variation",
}
"""What the figures of a scorecard are called, each of raw and of reweighted samples; lengths are in the target's units."""

COMPARISON = ("ess_reverse_trimmed", "ess_forward_trimmed")
"""Figures that are only there to be compared with published ones."""

# Inches, and pixels per inch; shown at half size, so that it is sharp on screens of many pixels.
_WIDTH, _HEIGHT, _DPI = 2.9, 1.75, 200
GREY, VERMILION, BLUE, INK = "#7a7a7a", "#d55e00", "#0072b2", "#222b33"
"""Colours of Okabe and Ito (2008), as in the report: data grey, flow vermilion, reweighted blue."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
}


def page(title: str, rows: Iterable[Row], picture: str = "") -> str:
    """A title, a table and a picture beside it, as HTML that stands alone.

    Args:
        title: what the object is; escaped.
        rows: name, value and perhaps interval; escaped. Rows whose value is None or empty are left out.
        picture: HTML of `thumbnail`.
    """
    left = "text-align:left;padding:1px 12px 1px 0"
    lines = []
    for name, value, *interval in rows:
        if value is None or value == "":
            continue
        cells = (escape(name), escape(value), escape(interval[0]) if interval else "")
        lines.append("<tr>" + "".join(f'<td style="{left}">{cell}</td>' for cell in cells) + "</tr>")
    table = f'<table style="border-collapse:collapse">{"".join(lines)}</table>' if lines else ""
    beside = f'<div style="display:flex;gap:1.5em;align-items:flex-start;flex-wrap:wrap">{table}{picture}</div>'
    return f"<div><strong>{escape(title)}</strong>{beside}</div>"


def thumbnail(draw: "Callable[[Axes], None]", alternative: str) -> str:
    """A small plot as HTML, its PNG inside.

    Args:
        draw: draws on the axes that it is given.
        alternative: what is to be seen, for those who cannot.

    Returns:
        HTML; empty where matplotlib, of the extra `report`, is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return ""

    # A figure of its own, which pyplot's state, and the user's plots, know nothing of.
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        draw(figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=_DPI)
    data = base64.b64encode(content.getvalue()).decode()
    size = f'width="{round(_WIDTH * _DPI / 2)}" height="{round(_HEIGHT * _DPI / 2)}"'
    return f'<img alt="{escape(alternative)}" {size} src="data:image/png;base64,{data}">'


def energies(axes: Any, u: Any, weight: Any) -> None:
    """Histograms of energies as drawn and reweighted, over the range that counts.

    Args:
        axes: where to draw.
        u: (n,) finite reduced energies.
        weight: (n,) their weights, up to a factor.
    """
    import numpy as np

    # The flow's few clashes would squeeze all that counts.
    order = np.argsort(u)
    heavy = np.searchsorted(np.cumsum(weight[order]), 0.999 * weight.sum())
    low, high = float(u.min()), max(float(np.quantile(u, 0.95)), float(u[order[min(int(heavy), u.size - 1)]]))
    margin = 0.02 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, 51)
    axes.hist(u, edges, weights=np.full(u.size, 1.0 / (u.size * np.diff(edges)[0])), color=VERMILION, alpha=0.5, label="drawn")
    share = weight / (weight.sum() * np.diff(edges)[0])
    axes.hist(u, edges, weights=share, histtype="step", color=BLUE, linewidth=1.2, label="reweighted")
    axes.set(xlabel="energy / kT", ylabel="density", xlim=(edges[0], edges[-1]))
    axes.legend()


def likelihoods(axes: Any, values: Any) -> None:
    """A histogram of negative log densities.

    Args:
        axes: where to draw.
        values: (n,) finite values of -log q.
    """
    axes.hist(values, bins=50, density=True, color=VERMILION)
    axes.set(xlabel="-log q / nats", ylabel="density")


def unit(name: str) -> str:
    """The end of an axis' label: `/ nm`, or what toy systems have in place of a unit."""
    return "(reduced units)" if name == "reduced" else f"/ {name}"


def escape(value: object) -> str:
    """Text of users and files, safe inside HTML."""
    return html.escape(str(value), quote=True)
