"""The subspace of configurations whose centre of mass is the origin (all particles weighted equally)."""

from typing import TypeVar, cast

import jax
import numpy as np
from jaxtyping import Float

PositionsT = TypeVar("PositionsT", jax.Array, np.ndarray)


def center(positions: PositionsT) -> PositionsT:
    """Removes the mean over the particles.

    Args:
        positions: (..., N, D), a JAX or a NumPy array.

    Returns:
        The positions relative to their unweighted centre, of the same kind of array.
    """
    return cast(PositionsT, positions - positions.mean(axis=-2, keepdims=True))


def basis(n_particles: int) -> Float[np.ndarray, "N N-1"]:
    """An orthonormal basis of the zero-CoM subspace for one Cartesian component.

    Column k is the Helmert vector (1, ..., 1, -k, 0, ..., 0) / sqrt(k (k+1)) with k ones. `basis(N).T @ x` are the coordinates of a
    centred x (N, D) in an (N-1)·D-dimensional space with the same distances and volumes; `basis(N) @ y` goes back.

    Args:
        n_particles: N.

    Returns:
        The matrix B with B^T B = 1 and 1^T B = 0, float64.
    """
    out = np.zeros((n_particles, n_particles - 1))
    for k in range(1, n_particles):
        out[:k, k - 1] = 1.0
        out[k, k - 1] = -k
        out[:, k - 1] /= np.sqrt(k * (k + 1.0))
    return out
