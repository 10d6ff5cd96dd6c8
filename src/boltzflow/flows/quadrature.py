"""Transport whose divergence is evaluated at the nodes of a Gauss-Legendre rule alone.

The log density is an integral along the path that feeds nothing back, so a solver that carries it through every stage evaluates the
divergence, the expensive part, many times more often than the integral needs. Here Runge-Kutta steps lead from node to node.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.config import DivergenceName
from boltzflow.flows.divergence import velocity_and_divergence
from boltzflow.nets.base import AbstractVectorField

T = TypeVar("T")


class Grid(NamedTuple):
    """The way from t0 to t1 in intervals, each of which begins at t0 or at a node.

    Attributes:
        times: beginnings of the intervals: t0, then the nodes; (m + 1,).
        lengths: their lengths, negative where time runs backwards; (m + 1,).
        weights: weight of the node each begins at; zero at t0, negative where time runs backwards; (m + 1,).
    """

    times: Float[np.ndarray, " m+1"]
    lengths: Float[np.ndarray, " m+1"]
    weights: Float[np.ndarray, " m+1"]


def grid(nodes: int, *, grading: float = 1.0, reverse: bool = False) -> Grid:
    """The Gauss-Legendre rule on [0, 1] in s, where t = 1 - (1 - s)^grading: exact for polynomials of degree 2 m - 1 without grading."""
    inner, weights = np.polynomial.legendre.leggauss(nodes)
    inner, weights = 0.5 * (1.0 + inner), 0.5 * weights
    inner, weights = 1.0 - (1.0 - inner) ** grading, weights * grading * (1.0 - inner) ** (grading - 1.0)
    if reverse:
        inner, weights = inner[::-1], -weights[::-1]
    first, last = (1.0, 0.0) if reverse else (0.0, 1.0)
    return Grid(np.append(first, inner), np.diff(inner, prepend=first, append=last), np.append(0.0, weights))


def runge_kutta(rates: Callable[[Any, T], T], t: Any, state: T, h: Any, first: T | None = None) -> T:
    """One classical Runge-Kutta step of length h; `first` is the first stage where it is known.

    The stages are a loop, so that the field is compiled once.
    """
    stages = [(0.0, 1.0), (0.5, 2.0), (0.5, 2.0), (1.0, 1.0)]

    def stage(carry: tuple[T, T], coefficients: Array) -> tuple[tuple[T, T], None]:
        before, total = carry
        offset, weight = coefficients
        rate = rates(t + offset * h, jax.tree.map(lambda x, k: x + offset * h * k, state, before))
        return (rate, jax.tree.map(lambda a, k: a + weight * k, total, rate)), None

    begin = jax.tree.map(jnp.zeros_like, state) if first is None else first
    dtype = jax.tree.leaves(state)[0].dtype
    (_, total), _ = jax.lax.scan(stage, (begin, begin), jnp.asarray(stages if first is None else stages[1:], dtype))
    return jax.tree.map(lambda x, a: x + h / 6.0 * a, state, total)


def transport(
    field: AbstractVectorField,
    start: Float[Array, "N D"],
    nodes: int,
    *,
    grading: float = 1.0,
    reverse: bool = False,
    method: DivergenceName = "exact",
    probes: Float[Array, "P N D"] | None = None,
    recompute: bool = False,
) -> tuple[Float[Array, "N D"], Float[Array, ""], Float[Array, ""]]:
    """End point, integral of the divergence and path length of one configuration.

    Args:
        field: the vector field.
        start: configuration at t = 0, or at t = 1 for `reverse`.
        nodes: nodes m of the rule; the field is evaluated 4 (m + 1) times, its divergence m times.
        grading: how far the nodes are moved towards t = 1, see `grid`.
        reverse: from t = 1 to t = 0.
        method: how the divergence is evaluated.
        probes: probe vectors of the Hutchinson estimate.
        recompute: compute the intervals again in a backward pass, so that its memory does not grow with the number of nodes.
    """

    def step(carry: tuple[Array, Array, Array], interval: Grid) -> tuple[tuple[Array, Array, Array], None]:
        x, change, length = carry
        t, h, weight = map(jnp.asarray, interval)
        v, rate = jax.lax.cond(
            weight == 0.0,
            lambda y: (field(t, y), jnp.zeros((), y.dtype)),
            lambda y: velocity_and_divergence(field, t, y, method=method, probes=probes),
            x,
        )
        speed = jnp.sqrt(jnp.sum(v**2))
        return (runge_kutta(field, t, x, h, v), change + weight * rate, length + jnp.abs(weight) * speed), None

    zero = jnp.zeros((), start.dtype)
    intervals = jax.tree.map(lambda a: jnp.asarray(a, start.dtype), grid(nodes, grading=grading, reverse=reverse))
    return jax.lax.scan(jax.checkpoint(step) if recompute else step, (start, zero, zero), intervals)[0]
