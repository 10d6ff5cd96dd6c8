"""Pair distances that are safe to differentiate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@functools.cache
def _pair_differences(n_particles: int) -> Float[np.ndarray, "P N"]:
    """The matrix whose row for the pair i<j has +1 at i and -1 at j."""
    first, second = np.triu_indices(n_particles, k=1)
    pairs = np.arange(len(first))
    matrix = np.zeros((len(first), n_particles))
    matrix[pairs, first] = 1.0
    matrix[pairs, second] = -1.0
    return matrix


def squared_distances(positions: Float[Array, "N D"]) -> Float[Array, " P"]:
    """Squared distances of the N(N-1)/2 pairs i<j.

    Self pairs never appear, so the gradient of a singular pair potential has no 0·inf terms. The differences are a product with a
    constant matrix, one axis after the other: on CPUs this runs and compiles several times faster than indexing, whose gradient is a
    scatter. Full precision keeps the differences exact on accelerators that round the factors of products.
    """
    matrix = jnp.asarray(_pair_differences(positions.shape[0]), positions.dtype)
    along = [jnp.matmul(matrix, positions[:, axis], precision=jax.lax.Precision.HIGHEST) for axis in range(positions.shape[1])]
    return sum((difference * difference for difference in along[1:]), along[0] * along[0])


def distances(positions: Float[Array, "N D"]) -> Float[Array, " P"]:
    """Distances of the pairs i<j; the gradient of a coincident pair is zero instead of NaN."""
    squared = squared_distances(positions)
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
