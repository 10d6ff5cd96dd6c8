"""Velocity and divergence of a vector field: sparse exact, brute force, and Hutchinson's estimate."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.config import DivergenceName
from boltzflow.nets.base import AbstractSparseVectorField, AbstractVectorField

VelocityAndDivergence = tuple[Float[Array, "N D"], Float[Array, ""]]


# Columns of the Jacobian at once: memory must not grow with N·D on top of what one column takes.
_COLUMNS = 48


def brute_force(field: AbstractVectorField, t: Float[Array, ""], positions: Float[Array, "N D"]) -> VelocityAndDivergence:
    """Exact trace of the Jacobian by N·D Jacobian-vector products.

    The trace over all of R^(N·D) is the divergence on the zero-CoM subspace: the field is translation invariant and its velocity has
    zero mean, so the D directions of the centre of mass contribute nothing.
    """
    n, dimension = positions.shape
    velocity, tangent = jax.linearize(lambda x: field(t, x), positions)
    unit = jnp.eye(n * dimension, dtype=positions.dtype).reshape(-1, n, dimension)
    return velocity, jnp.sum(jax.lax.map(lambda e: jnp.sum(tangent(e) * e), unit, batch_size=min(_COLUMNS, n * dimension)))


def hutchinson(
    field: AbstractVectorField, t: Float[Array, ""], positions: Float[Array, "N D"], probes: Float[Array, "P N D"]
) -> VelocityAndDivergence:
    """Unbiased estimate of the divergence from probe vectors of zero mean and unit covariance on the zero-CoM subspace."""
    velocity, tangent = jax.linearize(lambda x: field(t, x), positions)
    return velocity, jnp.mean(jnp.sum(jax.vmap(tangent)(probes) * probes, axis=(1, 2)))


def draw_probes(count: int, n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "P N D"]:
    """Gaussian probe vectors on the zero-CoM subspace; to be drawn once and kept over one solve."""
    probes = jax.random.normal(key, (count, n_particles, dimension))
    return probes - jnp.mean(probes, axis=1, keepdims=True)


def velocity_and_divergence(
    field: AbstractVectorField,
    t: Float[Array, ""],
    positions: Float[Array, "N D"],
    *,
    method: DivergenceName,
    probes: Float[Array, "P N D"] | None = None,
) -> VelocityAndDivergence:
    """Velocity and divergence by the method named; "exact" takes the sparse path of networks that have one, else brute force.

    Raises:
        ValueError: "hutchinson" without probes.
    """
    if method == "hutchinson":
        if probes is None:
            raise ValueError("the Hutchinson estimate needs probe vectors; draw them once per solve with draw_probes.")
        return hutchinson(field, t, positions, probes)
    if method == "exact" and isinstance(field, AbstractSparseVectorField):
        return field.velocity_and_divergence(t, positions)
    return brute_force(field, t, positions)
