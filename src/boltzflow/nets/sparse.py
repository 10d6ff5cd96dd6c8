"""Seeded tangents of neighbour sums: the part that all vector fields with a sparse exact divergence have in common."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_displacements(n: int, dimension: int, dtype: Any) -> Float[Array, "D N N D"]:
    """For each axis the tangent that moves every displacement along it."""
    return jnp.broadcast_to(jnp.eye(dimension, dtype=dtype)[:, None, None], (dimension, n, n, dimension))


def tangents_of_sums(jacobian: Float[Array, "D N N ..."]) -> Float[Array, "D*N N ..."]:
    """Tangents of the sums over j of functions f(x_i - x_j), for each particle k moved along each axis alpha.

    The edge (i, k) sees -e_alpha, and at i = k all edges of k see +e_alpha: no other edge sees the seed.

    Args:
        jacobian: derivative of the function of edge (i, j) along axis alpha of its displacement, with axes alpha, i, j.

    Returns:
        Tangents with axes (alpha, k), i; alpha varies slowest.
    """
    dimension, n = jacobian.shape[:2]
    diagonal = jnp.eye(n, dtype=jacobian.dtype).reshape((1, n, n) + (1,) * (jacobian.ndim - 3))
    own = diagonal * jnp.sum(jacobian, axis=2)[:, :, None]
    return (own - jnp.swapaxes(jacobian, 1, 2)).reshape((dimension * n, *jacobian.shape[2:]))
