"""Distances, angles and torsions of batches of configurations.

The batch is the last axis everywhere: then every operation runs over neighbouring numbers in memory, gathers copy whole rows, and the
compiler vectorises over configurations.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Squares below this one, in nm², count as it: distances and normals keep finite gradients where atoms coincide.
_TINY = 1e-24

Indices = Int[np.ndarray, " M"]


class Turn(NamedTuple):
    """Cosine and sine of torsion angles, by the IUPAC sign convention."""

    cosine: Float[Array, "M B"]
    sine: Float[Array, "M B"]


class Geometry:
    """A batch of configurations with what several forces ask of it, computed once."""

    def __init__(self, positions: Float[Array, "N 3 B"]) -> None:
        """Geometry of positions in nm."""
        self.positions = positions

    @functools.cached_property
    def pair_distances(self) -> Float[Array, "P B"]:
        """Distances of all pairs i < j, in the order of `pairs`."""
        return self.distances(*pairs(self.positions.shape[0]))

    def vectors(self, start: Indices, end: Indices) -> Float[Array, "M 3 B"]:
        """Displacements from atoms to atoms."""
        return self.positions[end] - self.positions[start]

    def distances(self, first: Indices, second: Indices) -> Float[Array, "M B"]:
        """Distances between atoms."""
        return length(self.vectors(first, second))

    def angles(self, first: Indices, middle: Indices, last: Indices) -> Float[Array, "M B"]:
        """Angles at the middle atoms, in [0, pi]."""
        u, v = self.vectors(middle, first), self.vectors(middle, last)
        return jnp.arctan2(length(cross(u, v)), dot(u, v))

    def turns(self, *atoms: Indices) -> Turn:
        """Torsion angles of four atoms each about the middle bonds."""
        a, b, c, d = atoms
        before, axis, after = self.vectors(a, b), self.vectors(b, c), self.vectors(c, d)
        normal = cross(axis, after)
        x, y = dot(cross(before, axis), normal), length(axis) * dot(before, normal)
        size = jnp.maximum(x * x + y * y, _TINY**2)
        inverse = 1.0 / jnp.sqrt(size)
        return Turn(x * inverse, y * inverse)

    def torsions(self, *atoms: Indices) -> Float[Array, "M B"]:
        """Torsion angles in [-pi, pi]."""
        turn = self.turns(*atoms)
        return jnp.arctan2(turn.sine, turn.cosine)


@functools.cache
def pairs(n: int) -> tuple[Indices, Indices]:
    """First and second atoms of all pairs i < j."""
    first, second = (index.astype(np.int32) for index in np.triu_indices(n, k=1))
    return first, second


def dot(u: Float[Array, "M 3 B"], v: Float[Array, "M 3 B"]) -> Float[Array, "M B"]:
    """Scalar products; written out, for a reduction over an axis of three is a loop of its own."""
    return u[:, 0] * v[:, 0] + u[:, 1] * v[:, 1] + u[:, 2] * v[:, 2]


def cross(u: Float[Array, "M 3 B"], v: Float[Array, "M 3 B"]) -> Float[Array, "M 3 B"]:
    """Vector products."""
    (ux, uy, uz), (vx, vy, vz) = (jnp.moveaxis(w, 1, 0) for w in (u, v))
    return jnp.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx], axis=1)


def length(u: Float[Array, "M 3 B"]) -> Float[Array, "M B"]:
    """Lengths, with gradient 0 at zero."""
    return jnp.sqrt(jnp.maximum(dot(u, u), _TINY))
