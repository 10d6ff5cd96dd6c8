"""Which tangents are zero: of the Jacobian of neighbour sums, and which of its entries a divergence asks for.

python docs/figures/divergence.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from _style import BLUE, PALE, VERMILION, drawn, saved

N = 8


def main() -> None:
    """Draws the seed of one particle after the first sum, and the edges that the last sum is asked for."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(N, 1)))
    weights = 1.0 - jnp.eye(N)

    def edges(x: jax.Array) -> jax.Array:
        difference = x[:, None, 0] - x[None, :, 0]
        return weights * jnp.exp(-(difference**2)) * difference

    seed = 2
    # Tangent of every edge (i, j) when one particle moves: only its row and its column are not zero.
    tangent = np.asarray(jax.jvp(edges, (x,), (jnp.zeros((N, 1)).at[seed].set(1.0),))[1])
    figure, axes = drawn(7.2, 3.0, columns=3, gridspec_kw={"width_ratios": (1, 0.6, 1)})
    asked = np.zeros((N, N), bool)
    asked[seed] = ~np.eye(N, dtype=bool)[seed]
    titles = ("first sum:\nedges that see the seed", "in between:\nall particles", "last sum:\nedges that are asked for")
    for axis, title, filled, color in zip(
        axes, titles, (tangent != 0.0, np.ones((N, 1), bool), asked), (VERMILION, PALE, BLUE), strict=True
    ):
        height, width = filled.shape
        for i in range(height):
            for j in range(width):
                axis.add_patch(
                    _cell(j + (N - width) / 2, height - 1 - i, color if filled[i, j] else "none"),
                )
        axis.set(xlim=(-0.6, N + 0.6), ylim=(-0.6, N + 0.6), aspect="equal", xticks=[], yticks=[])
        axis.set_title(title)
        for side in axis.spines.values():
            side.set_visible(False)
        axis.set_xlabel("sender j" if width > 1 else "")
    axes[0].set_ylabel("receiver i")
    saved(figure, "divergence")


def _cell(x: float, y: float, color: str):  # noqa: ANN202
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 0.9, 0.9, facecolor=color, edgecolor=PALE, linewidth=0.7)


if __name__ == "__main__":
    main()
