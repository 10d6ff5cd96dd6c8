"""Observables of configurations, on the host; they take any leading axes."""

import numpy as np
from jaxtyping import Float

from boltzflow.errors import DataError


def pair_distances(positions: Float[np.ndarray, "*batch N D"]) -> Float[np.ndarray, "*batch pairs"]:
    """Distances of all N(N-1)/2 pairs of particles, in the order (0,1), (0,2), ..., (1,2), ...

    Args:
        positions: (..., N, D), in the target's units of length.

    Returns:
        (..., N(N-1)/2), in the same units.
    """
    positions = checked(positions)
    first, second = np.triu_indices(positions.shape[-2], k=1)
    return np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)


def nearest_distances(positions: Float[np.ndarray, "*batch N D"]) -> Float[np.ndarray, "*batch N"]:
    """Distance of each particle from the one nearest to it: in a molecule, its shortest bond.

    Args:
        positions: (..., N, D), in the target's units of length.

    Returns:
        (..., N), in the same units.
    """
    positions = checked(positions)
    apart = np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1)
    diagonal = np.arange(positions.shape[-2])
    apart[..., diagonal, diagonal] = np.inf
    return apart.min(axis=-1)


def radius_of_gyration(positions: Float[np.ndarray, "*batch N D"]) -> Float[np.ndarray, "*batch"]:
    """Root mean square distance of the particles, all of equal mass, from their centre.

    Args:
        positions: (..., N, D), in the target's units of length.

    Returns:
        (...,), in the same units.
    """
    positions = checked(positions)
    centered = positions - positions.mean(axis=-2, keepdims=True)
    return np.sqrt((centered**2).sum(axis=-1).mean(axis=-1))


def checked(positions: Float[np.ndarray, "*batch N D"]) -> Float[np.ndarray, "*batch N D"]:
    """Positions as an array.

    Raises:
        DataError: if they are not (..., N, D).
    """
    positions = np.asarray(positions)
    if positions.ndim < 2:
        raise DataError(f"positions must have shape (..., N, D), but have shape {positions.shape}.")
    return positions
