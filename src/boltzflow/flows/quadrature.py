"""Transport whose divergence is evaluated at the nodes of a Gauss-Legendre rule alone.

The log density is an integral along the path that feeds nothing back, so a solver that carries it through every stage evaluates the
divergence, the expensive part, many times more often than the integral needs. Here Runge-Kutta steps lead from node to node.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.flows.divergence import velocity_and_divergence
from boltzflow.nets.base import AbstractVectorField


class Grid(NamedTuple):
    """Nodes and weights on the way from t0 to t1, in the order in which they are passed.

    Attributes:
        times: t0, then the nodes, then t1; (m + 2,).
        weights: weights of the nodes; negative where time runs backwards; (m,).
    """

    times: Float[np.ndarray, " m+2"]
    weights: Float[np.ndarray, " m"]


def grid(nodes: int, *, reverse: bool = False) -> Grid:
    """Gauss-Legendre nodes in s with t = 1 - (1-s)^1.5, which lie denser near the data, where the field changes fastest."""
    s, weights = np.polynomial.legendre.leggauss(nodes)
    left = 0.5 * (1.0 - s)
    times, weights = 1.0 - left**_POWER, 0.5 * weights * _POWER * left ** (_POWER - 1.0)
    if reverse:
        return Grid(np.concatenate([[1.0], times[::-1], [0.0]]), -weights[::-1])
    return Grid(np.concatenate([[0.0], times, [1.0]]), weights)


_POWER = 1.5


def runge_kutta(field: AbstractVectorField, t: Any, x: Float[Array, "N D"], h: Any, first: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """One classical Runge-Kutta step of length h whose first stage is known."""
    second = field(t + 0.5 * h, x + 0.5 * h * first)
    third = field(t + 0.5 * h, x + 0.5 * h * second)
    fourth = field(t + h, x + h * third)
    return x + h / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)


def transport(
    field: AbstractVectorField, start: Float[Array, "N D"], nodes: int, *, reverse: bool = False, **divergence: Any
) -> tuple[Float[Array, "N D"], Float[Array, ""], Float[Array, ""]]:
    """End point, integral of the divergence and path length of one configuration.

    Args:
        field: the vector field.
        start: configuration at t = 0, or at t = 1 for `reverse`.
        nodes: nodes m of the rule; the field is evaluated 4 (m + 1) times, its divergence m times.
        reverse: from t = 1 to t = 0.
        divergence: options of `velocity_and_divergence`.
    """
    times, weights = (jnp.asarray(a, start.dtype) for a in grid(nodes, reverse=reverse))
    end = runge_kutta(field, times[0], start, times[1] - times[0], field(times[0], start))

    def step(carry: tuple[Array, Array, Array], node: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array, Array], None]:
        x, change, length = carry
        t, h, weight = node
        v, rate = velocity_and_divergence(field, t, x, **divergence)
        speed = jnp.sqrt(jnp.sum(v**2))
        return (runge_kutta(field, t, x, h, v), change + weight * rate, length + jnp.abs(weight) * speed), None

    zero = jnp.zeros((), start.dtype)
    (end, change, length), _ = jax.lax.scan(step, (end, zero, zero), (times[1:-1], jnp.diff(times)[1:], weights))
    return end, change, length
