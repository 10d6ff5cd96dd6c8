"""A square grid in the plane moved by the three projections of coupling layers, with one set of raw parameters each.

python docs/figures/projections.py
"""

import jax.numpy as jnp
import numpy as np
from _style import BLUE, PALE, VERMILION, drawn, saved

from boltzflow.flows.coupling import Cartesian, Spherical, Vector

REACH = 2.5


def main() -> None:
    """Draws the grid and its image under each projection."""
    projections = (Cartesian(2, bins=8, reach=REACH), Spherical(2, bins=8, reach=REACH), Vector(2, bins=8, reach=REACH))
    figure, axes = drawn(7.2, 2.7, columns=3, sharex=True, sharey=True)
    line = np.linspace(-1.6, 1.6, 721)
    origin = np.array([0.25, 0.15])
    for axis, projection in zip(axes, projections, strict=True):
        raw = 0.35 * np.random.default_rng(3).normal(size=projection.parameters)
        vectors = np.array([origin, [1.0, 0.5]])[: projection.vectors]
        for level in np.linspace(-1.6, 1.6, 9):
            for points in (np.stack([line, np.full_like(line, level)], axis=1), np.stack([np.full_like(line, level), line], axis=1)):
                moved, _ = projection(
                    jnp.asarray(points, jnp.float32),
                    jnp.zeros_like(jnp.asarray(points, jnp.float32)),
                    jnp.broadcast_to(jnp.asarray(vectors, jnp.float32), (len(points), *vectors.shape)),
                    jnp.broadcast_to(jnp.asarray(raw, jnp.float32), (len(points), raw.size)),
                    inverse=False,
                )
                axis.plot(*points.T, color=PALE, linewidth=0.5)
                # A line that passes the half-line of angle pi is drawn in two pieces.
                steps = np.linalg.norm(np.diff(np.asarray(moved), axis=0), axis=1)
                broken = np.insert(np.asarray(moved, float), np.flatnonzero(steps > 0.6) + 1, np.nan, axis=0)
                axis.plot(*broken.T, color=BLUE, linewidth=1.0)
        axis.plot(*origin, marker="o", color=VERMILION, markersize=4)
        axis.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal", xticks=[], yticks=[])
        axis.set_title(type(projection).__name__.lower() if type(projection) is not Cartesian else "Cartesian")
    saved(figure, "projections")


if __name__ == "__main__":
    main()
