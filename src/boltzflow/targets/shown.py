"""Thumbnails of targets: the structure of a molecule, or the energy along a scaling of a configuration."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from boltzflow import display

# The usual colours of elements, darkened where they would not show on white.
_ELEMENTS = {
    "H": "#d0d4d8",
    "C": "#5b6570",
    "N": "#3050f8",
    "O": "#e0301e",
    "S": "#d4b012",
    "F": "#6ab04c",
    "Cl": "#1fa01f",
    "P": "#e67e22",
}
_CLASSES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STARTS, _POINTS = 32, 120
# Above the lowest point of the curve, in depths or kT, the rest is wall.
_SHOWN = 1.5


def structure(
    positions: Float[np.ndarray, "N D"],
    bonds: Iterable[tuple[int, int]],
    elements: Sequence[str],
    classes: Sequence[int],
    units: str,
) -> Callable[[Any], None]:
    """Draws a configuration, seen along its shortest axis, in the plane."""
    x = np.asarray(positions, np.float64) - np.mean(positions, axis=0)
    plane = (x @ np.linalg.svd(x, full_matrices=False)[2].T)[:, :2]
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    named = elements if any(element != "X" for element in elements) else ()
    colors = [_ELEMENTS.get(element, "#cc79a7") for element in named] or [_CLASSES[number % len(_CLASSES)] for number in classes]

    def draw(axes: Any) -> None:
        for first, second in bonds:
            axes.plot(*plane[[first, second]].T, color="#9aa2a9", linewidth=1.5, zorder=1)
        sizes = [14 if element == "H" else 36 for element in named] or 36
        axes.scatter(*plane.T, s=sizes, c=colors, edgecolors="#5b6570", linewidths=0.4, zorder=2)
        axes.set_aspect("equal", "datalim")
        axes.set(xlabel=units, yticks=[])
        axes.spines["left"].set_visible(False)
        axes.margins(0.15)

    return draw


def curve(energies: Callable[[Any], Any], start: Callable[..., Any], exact: float | None, units: str) -> Callable[[Any], None] | None:
    """Draws the energy of a configuration that is scaled about its centre, the best of some starts; None where it is not finite.

    Args:
        energies: reduced energies of a batch.
        start: makes a starting configuration from `key=`.
        exact: mean energy of the target, which is shown beside it; None where it is unknown.
        units: unit of length.
    """
    starts = np.asarray(jax.vmap(lambda key: start(key=key))(jax.random.split(jax.random.key(0), _STARTS)))
    scale = np.geomspace(0.4, 2.5, _POINTS)
    scanned = np.asarray([energies(jnp.asarray(x[None] * scale[:, None, None], starts.dtype)) for x in starts], np.float64)
    if not np.isfinite(scanned).any():
        return None
    best = int(np.argmin(np.nanmin(np.where(np.isfinite(scanned), scanned, np.inf), axis=1)))
    u = scanned[best]
    size = scale * float(np.sqrt(np.mean(np.sum((starts[best] - starts[best].mean(axis=0)) ** 2, axis=-1))))

    def draw(axes: Any) -> None:
        low = float(u[np.isfinite(u)].min())
        high = max(0.0, low + 10.0) if low < 0.0 else low + 10.0
        high += 0.15 * (high - low)
        shown = np.isfinite(u) & (u <= low + _SHOWN * (high - low))
        axes.plot(size[shown], u[shown], color=display.BLUE, linewidth=1.3)
        if exact is not None:
            axes.axhline(exact, color=display.GREY, linewidth=0.8, linestyle="--")
            axes.annotate("mean", (1.0, exact), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=display.GREY)
        axes.set(xlabel=f"radius of gyration {display.unit(units)}", ylabel="energy / kT", ylim=(low - 0.05 * (high - low), high))

    return draw
