"""A look at a few configurations: the interactive 3-D view of `sampling.views`, in the report."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from markupsafe import Markup

from boltzflow.report.page import filled
from boltzflow.sampling import views


def view_3d(
    positions: Shaped[np.ndarray, "m N 3"],
    energies: Sequence[float],
    kinds: Sequence[int] | Sequence[str],
    bonds: Sequence[tuple[int, int]] | None,
    unit: str,
) -> Markup:
    """A view that can be turned, with a slider over the configurations; plotly's JavaScript is inlined.

    Args:
        positions: (m, N, 3) configurations.
        energies: (m,) reduced energies.
        kinds: (N,) interchangeability classes or element symbols, told apart by colour.
        bonds: pairs of bonded particles; None joins neighbours.
        unit: unit of length.
    """
    return filled(
        "view.html",
        count=len(positions),
        legend=views.legend(kinds),
        figure=views.figure_of(positions, energies, kinds, bonds, unit),
        plotly=Markup(views.javascript()),
    )
