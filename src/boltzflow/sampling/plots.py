"""Plots of samples on matplotlib's axes: those of the report, and those of `Samples.plot_energy` and its like.

Functions whose names begin with `draw` draw on axes that they are given and take arrays; those that begin with `plot` take samples, make a
figure where there is none, and give the axes back. Data are grey, the flow vermilion, what is reweighted blue (Okabe and Ito, 2008).
"""

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from boltzflow import display, extras
from boltzflow.analysis import internal_coordinates, metrics, ramachandran, weights
from boltzflow.analysis.metrics import Histogram
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples
from boltzflow.targets import description

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA, FLOW, REWEIGHTED, LIGHT = display.GREY, display.VERMILION, display.BLUE, "#c8ccd0"
# Ramachandran densities over this many orders of magnitude are told apart.
_DECADES = 4


def plot_energy(samples: Samples, axes: "Axes | None" = None, *, frames: Any = None) -> "Axes":
    """Histograms of the energies as drawn and reweighted, with 95 % bands; of frames of the target beside them.

    Args:
        samples: samples with energies.
        axes: where to draw; None: a figure of its own.
        frames: (m,) reduced energies of frames of the target, or a `Dataset` with energies; None: none.

    Returns:
        The axes.

    Raises:
        DataError: if there are no energies to draw.
    """
    if not samples.has_energy or not np.isfinite(samples.u).any():
        raise DataError("these samples have no finite energies to draw.")
    values: dict[str, tuple[Any, Any]] = {}
    if frames is not None:
        energies = getattr(frames, "energies", frames)
        if energies is None:
            raise DataError("these frames were stored without energies; pass the energies themselves, target.energies(frames.positions).")
        values["data"] = (np.asarray(energies, np.float64), None)
    values["flow"] = (samples.u, None)
    if np.isfinite(samples.log_weight).any():
        values["reweighted flow"] = (samples.u, samples.log_weight)
    edges = energy_edges(values)
    shown = {
        name: metrics.histogram(np.where(np.isfinite(found), found, np.nan), edges, log_w=log_w) for name, (found, log_w) in values.items()
    }
    axes = _axes(axes)
    draw_histograms(axes, shown)
    axes.set(xlabel="reduced energy u = U / kT", ylabel="probability density")
    axes.legend()
    return axes


def plot_weights(samples: Samples, axes: "Axes | None" = None) -> "Axes":
    """The tail of the weights on double-logarithmic axes, with the generalised Pareto tail that was fitted to it.

    A straight end that reaches far beyond its mean is what ruins averages; `analysis.weights.verdict` says so in words.

    Args:
        samples: samples with energies.
        axes: where to draw; None: a figure of its own.

    Returns:
        The axes.

    Raises:
        DataError: if no sample has weight, or the samples depend on one another, whose weights have no such tail.
    """
    if not np.isfinite(samples.log_weight).any():
        raise DataError("no sample has weight, so that there is no tail to draw.")
    if samples.grouped:
        raise DataError("these samples depend on one another in groups; the tail of the weights tells of independent draws alone.")
    axes = _axes(axes)
    draw_tail(axes, samples.log_weight, weights.pareto_k(samples.log_weight))
    return axes


def plot_ramachandran(samples: Samples, axes: "Axes | None" = None, *, residue: int = 0, reweighted: bool = True) -> "Axes":
    """Density of the torsions phi and psi of a residue, on a logarithmic scale of four decades.

    Args:
        samples: samples of a peptide; the molecule is in what they carry.
        axes: where to draw; None: a figure of its own.
        residue: number of the residue among those that have both torsions, from 0.
        reweighted: with the weights; False: as drawn.

    Returns:
        The axes.

    Raises:
        DataError: if the samples are of no molecule, it has no such residue, or no sample has weight.
    """
    with extras.of("report", "a plot"):
        from matplotlib.colors import LogNorm

    residues = internal_coordinates.backbones(_topology(samples))
    if not -len(residues) <= residue < len(residues):
        raise DataError(f"there is no residue {residue}: {len(residues)} residues of this molecule have both torsions phi and psi.")
    chosen = residues[residue]
    usable = np.isfinite(samples.positions).all(axis=(1, 2))
    angles = internal_coordinates.torsions(samples.positions[usable], np.array([chosen.phi, chosen.psi])).T
    density = ramachandran.density(*angles, log_w=samples.log_weight[usable] if reweighted else None)
    axes = _axes(axes)
    draw_density(axes, density, LogNorm(float(density.max()) * 10.0**-_DECADES, float(density.max()), clip=False))
    axes.set(xlabel=f"φ of {chosen.label} / °", ylabel=f"ψ of {chosen.label} / °", title="reweighted" if reweighted else "as drawn")
    return axes


def _axes(axes: "Axes | None") -> "Axes":
    """The axes given, or those of a new figure, which a notebook shows."""
    if axes is not None:
        return axes
    with extras.of("report", "a plot"):
        from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _topology(samples: Samples) -> Any:
    """OpenMM's topology of the molecule that samples carry.

    Raises:
        DataError: if they carry none.
    """
    molecule, structure = samples.meta.get("molecule"), samples.meta.get("structure")
    known = description.read(str(molecule)) if molecule else None
    if known is not None and known.topology is not None:
        return known.topology
    if not structure:
        raise DataError("these samples are of no molecule that has torsions.")
    return import_openmm().app.PDBFile(io.StringIO(str(structure))).topology


def energy_edges(values: Mapping[str, tuple[Any, Any]]) -> Float[np.ndarray, " b_plus_1"]:
    """Bins of energies over the reference, and as much of the flow's tails as leaves the reference readable.

    Args:
        values: energies and log-weights (or None) by the names "data", "flow" and "reweighted flow", as far as they are there.
    """
    finite = {name: array[np.isfinite(array)] for name, (array, _) in values.items()}
    reference = finite.get("data", finite.get("flow"))
    if reference is None or reference.size == 0:
        return np.linspace(0.0, 1.0, 61)
    low, high = np.quantile(reference, [0.001, 0.999])
    if "data" not in finite and "reweighted flow" in values:
        # Without data the weights tell where the target lies; clashes of the flow reach many orders of magnitude above it.
        array, log_w = values["reweighted flow"]
        drawn = array[weights.resample_indices(log_w, 4000, seed=0)]
        low, high = np.quantile(drawn, [0.0, 1.0])
        middle, spread = np.quantile(reference, 0.5), np.subtract(*np.quantile(reference, [0.75, 0.25]))
        high = max(high, min(middle + 2.0 * spread, high + 10.0 * max(high - low, 1.0)))
    width = max(high - low, 1e-6)
    if "flow" in finite and finite["flow"].size:
        flow_low, flow_high = np.quantile(finite["flow"], [0.01, 0.97])
        low, high = max(min(low, flow_low), low - width), min(max(high, flow_high), high + width)
    return np.linspace(low - 0.02 * width, high + 0.02 * width, 61)


def draw_histograms(axes: "Axes", shown: Mapping[str, Histogram]) -> None:
    """Histograms on top of each other with their bands; the names "data", "flow" and "reweighted flow" have their colours.

    Args:
        axes: where to draw.
        shown: name to histogram, all with the same edges.
    """
    for name, histogram in shown.items():
        label = f"{name} (n = {histogram.n:,})".replace(",", "\u202f")
        if name == "data":
            axes.stairs(histogram.density, histogram.edges, fill=True, color=LIGHT, label=label)
            axes.stairs(histogram.density, histogram.edges, color=DATA, linewidth=1.0)
            continue
        color = REWEIGHTED if name.startswith("reweighted") else FLOW
        if np.isfinite(histogram.low).all():
            axes.stairs(histogram.high, histogram.edges, baseline=histogram.low, fill=True, color=color, alpha=0.22)
        # Where both agree the reweighted line leaves a rim of the flow's.
        width = 1.3 if color == REWEIGHTED else 2.2
        axes.stairs(histogram.density, histogram.edges, color=color, linewidth=width, label=label)
    axes.set(xlim=(float(axes.dataLim.x0), float(axes.dataLim.x1)))
    axes.set_ylim(bottom=0)


def draw_log_weights(axes: "Axes", log_w: Float[np.ndarray, " n"]) -> float:
    """Histogram of the log-weights over their mean.

    Args:
        axes: where to draw.
        log_w: (n,) log-weights, at least one of them finite.

    Returns:
        The share of them that lies further left than what is shown.
    """
    log_relative = _over_mean(log_w)
    low, quarter, high = np.quantile(log_relative, 0.005), np.quantile(log_relative, 0.25), log_relative[0]
    # A few clashes, whose energies are beyond all bounds, must not flatten the others.
    low = max(low, min(-20.0, 3.0 * quarter))
    margin = 0.05 * max(high - low, 1e-3)
    axes.hist(log_relative, bins=np.linspace(low - margin, high + margin, 61), color=FLOW, alpha=0.85)
    axes.axvline(0.0, color=display.INK, linewidth=1.0, linestyle="--")
    axes.set(xlabel="log of the weight over its mean", ylabel="samples")
    return float(np.mean(log_relative < low - margin))


def draw_tail(axes: "Axes", log_w: Float[np.ndarray, " n"], pareto_k: float) -> None:
    """The tail of the weights on double-logarithmic axes.

    Args:
        axes: where to draw.
        log_w: (n,) log-weights, at least one of them finite.
        pareto_k: tail shape; NaN draws no line.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    log_relative, n = _over_mean(log_w), log_w.size
    shown = np.unique(np.geomspace(1, log_relative.size, 400).astype(int)) - 1
    # Far below the mean there are only bodies; the tail is what decides.
    shown = shown[log_relative[shown] > -6]
    tail = weights.tail_size(n)
    axes.loglog(np.exp(log_relative[shown]), (shown + 1) / n, color=LIGHT, linewidth=1.6)
    in_tail = shown[shown < tail]
    axes.loglog(
        np.exp(log_relative[in_tail]), (in_tail + 1) / n, color=FLOW, linewidth=0, marker="o", markersize=3, label=f"largest {tail}"
    )
    if math.isfinite(pareto_k) and in_tail.size:
        _pareto_line(axes, log_relative, tail, n, pareto_k)
    # Decades can be wider than the axis; these ticks are few and readable at any range.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="weight over its mean", ylabel="share of heavier samples")
    axes.legend(loc="lower left")


def _over_mean(log_w: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Logarithms of the weights over their mean, the largest first; those of samples without weight are left out."""
    log_relative = log_w - weights.log_z(log_w).value
    return np.sort(log_relative[np.isfinite(log_relative)])[::-1]


def _pareto_line(axes: "Axes", log_relative: Float[np.ndarray, " n"], tail: int, n: int, k: float) -> None:
    """The generalised Pareto tail of shape k that starts where the tail starts and has the tail's median excess."""
    threshold = math.exp(log_relative[min(tail, log_relative.size - 1)])
    excess = np.exp(log_relative[:tail]) - threshold
    # The median excess of shape k and scale s is s (2^k - 1) / k.
    unit = (2.0**k - 1.0) / k if abs(k) > 1e-6 else math.log(2.0)
    scale = float(np.median(excess)) / unit
    share = np.geomspace(1.0 / tail, 1.0, 100)
    reach = scale * ((share**-k - 1.0) / k if abs(k) > 1e-6 else -np.log(share))
    axes.loglog(threshold + reach, share * tail / n, color=REWEIGHTED, linewidth=1.5, label=f"Pareto tail, k = {k:.2f}")


def draw_density(axes: "Axes", density: Float[np.ndarray, "b b"], scale: Any) -> Any:
    """A density of phi and psi, in degrees.

    Args:
        axes: where to draw.
        density: per square radian, phi along the first axis.
        scale: matplotlib's norm of the colours.

    Returns:
        The image, for a bar of colours.
    """
    from matplotlib.ticker import MultipleLocator

    shown = np.ma.masked_less_equal(density.T, 0.0)
    drawn = axes.imshow(shown, origin="lower", extent=(-180, 180, -180, 180), norm=scale, cmap="viridis_r", interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(90))
    return drawn
