"""Figures that only molecules have: Ramachandran plots, free-energy profiles, bonds and angles by kind."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, MultipleLocator

from boltzflow.analysis.free_energy import Profile
from boltzflow.analysis.metrics import Histogram
from boltzflow.report.figures import STYLE, draw, svg
from boltzflow.sampling import plots
from boltzflow.sampling.plots import DATA, FLOW, LIGHT, REWEIGHTED

# Densities over this many orders of magnitude are told apart.
_DECADES = 4


def ramachandran(densities: Mapping[str, Float[np.ndarray, "b b"]], label: str) -> str:
    """Densities of phi and psi side by side on one logarithmic scale.

    Args:
        densities: name to density per square radian, phi along the first axis.
        label: name of the residue.
    """
    highest = max(float(density.max()) for density in densities.values())
    scale = LogNorm(highest * 10.0**-_DECADES, highest, clip=False)
    with rc_context({**STYLE, "axes.grid": False}):
        figure, all_axes = draw(2.7 * len(densities) + 0.7, 3.0, columns=len(densities), sharey=True)
        images = []
        for axes, (name, density) in zip(all_axes, densities.items(), strict=True):
            images.append(plots.draw_density(axes, density, scale))
            axes.set(title=name, xlabel=f"φ of {label} / °")
        all_axes[0].set_ylabel(f"ψ of {label} / °")
        figure.colorbar(images[-1], ax=list(all_axes), label="probability per rad²", shrink=0.85)
        return svg(figure)


def profiles(panels: Mapping[str, Mapping[str, Profile]], kilojoules: float | None = None) -> str:
    """Free-energy profiles along torsions, in degrees, with their bands.

    Args:
        panels: name of a torsion to profiles by what they are made of; "data" and "reweighted flow" have their colours.
        kilojoules: one kT in kJ/mol, for a second scale; None: kT alone.
    """
    with rc_context(STYLE):
        # A single panel keeps its size: beside it the page is empty.
        figure, drawn = draw(7.6, 3.1, columns=max(2, len(panels)))
        all_axes = drawn[: len(panels)]
        for axes in drawn[len(panels) :]:
            axes.set_axis_off()
        top = 0.0
        for axes, (torsion, shown) in zip(all_axes, panels.items(), strict=True):
            for name, profile in shown.items():
                color = DATA if name == "data" else REWEIGHTED if name.startswith("reweighted") else FLOW
                finite = np.isfinite(profile.free_energy)
                centers = np.degrees(profile.centers)
                axes.plot(centers, np.where(finite, profile.free_energy, math.nan), color=color, linewidth=1.6, label=name)
                band = finite & np.isfinite(profile.low)
                above = np.minimum(np.where(np.isfinite(profile.high), profile.high, 99.0), 99.0)
                axes.fill_between(centers, profile.low, above, where=band, color=color, alpha=0.22, linewidth=0)
                top = max(top, float(profile.free_energy[finite].max(initial=0.0)))
            axes.set(xlabel=f"{torsion} / °", xlim=(-180, 180))
            axes.xaxis.set_major_locator(MultipleLocator(90))
        for axes in all_axes:
            # One scale for all panels, so that they can be compared.
            axes.set_ylim(-0.3, 1.15 * top + 0.5)
        all_axes[0].set_ylabel("free energy / kT")
        if kilojoules is not None:
            scale = kilojoules
            second = all_axes[-1].secondary_yaxis("right", functions=(lambda u: u * scale, lambda energy: energy / scale))
            second.set_ylabel("free energy / (kJ/mol)")
        all_axes[0].legend()
        return svg(figure)


def small_histograms(panels: Mapping[str, Mapping[str, Histogram]], xlabel: str, *, degrees: bool = False) -> str:
    """A panel of histograms for each kind of bond or angle."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(STYLE):
        figure, all_axes = draw(max(7.6, 1.9 * columns), 1.75 * rows + 0.5, columns=columns, rows=rows)
        for axes, (kind, shown) in zip(all_axes, panels.items(), strict=False):
            for name, histogram in shown.items():
                edges = np.degrees(histogram.edges) if degrees else histogram.edges
                density = histogram.density / (180.0 / math.pi) if degrees else histogram.density
                if name == "data":
                    axes.stairs(density, edges, fill=True, color=LIGHT, label=name)
                    continue
                reweighted = name.startswith("reweighted")
                axes.stairs(density, edges, color=REWEIGHTED if reweighted else FLOW, linewidth=1.2 if reweighted else 2.0, label=name)
            axes.set_title(kind, loc="center")
            axes.set_yticks([])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.locator_params(axis="x", nbins=3)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        figure.supxlabel(xlabel, fontsize=9)
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
        return svg(figure)
