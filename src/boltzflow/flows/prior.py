"""The priors of flows, on the zero-CoM subspace: a standard normal, and particles joined by springs."""

import math
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError


def sample(n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
    """One configuration: independent normals minus their mean, which is the standard normal of the subspace."""
    positions = jax.random.normal(key, (n_particles, dimension))
    return positions - jnp.mean(positions, axis=0)[None]


def log_prob(positions: Float[Array, "N D"]) -> Float[Array, ""]:
    """Log density on the zero-CoM subspace, its (N-1)·D dimensional normalisation included."""
    degrees_of_freedom = (positions.shape[0] - 1) * positions.shape[1]
    return -0.5 * jnp.sum(positions**2) - 0.5 * degrees_of_freedom * math.log(2.0 * math.pi)


@runtime_checkable
class Prior(Protocol):
    """A density of N particles in D dimensions on the zero-CoM subspace.

    Example:
        >>> isinstance(model.flow.prior, bf.flows.prior.Prior)
        True
    """

    def sample(self, n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
        """One configuration.

        Args:
            n_particles: N.
            dimension: D.
            key: of the random numbers.
        """
        ...

    def log_prob(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Its log density.

        Args:
            positions: (N, D) with their centre of mass at zero.
        """
        ...


class Normal(eqx.Module):
    """The standard normal."""

    def sample(self, n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
        """One configuration."""
        return sample(n_particles, dimension, key=key)

    def log_prob(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Its log density."""
        return log_prob(positions)


class Harmonic(eqx.Module):
    """Particles joined by springs: exp(-stiffness/2 · sum over bonds of |x_i - x_j|²), sampled in the eigenvectors of the bonds' Laplacian.

    Attributes:
        bonds: pairs of particles; they must join all particles.
        n_particles: N.
        stiffness: of each spring, in units of the prior.
    """

    bonds: tuple[tuple[int, int], ...] = eqx.field(static=True)
    n_particles: int = eqx.field(static=True)
    stiffness: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        """Raises TargetError where the bonds leave the particles in pieces that could drift apart."""
        if not self.bonds:
            raise TargetError("a harmonic prior needs a target with bonds, but this one has none; choose flow.base=normal.")
        precisions = np.linalg.eigvalsh(self._laplacian())
        if precisions[1] < 1e-9:
            raise TargetError("a harmonic prior needs bonds that join all particles; add the missing ones, or choose flow.base=normal.")

    def _laplacian(self) -> Float[np.ndarray, "N N"]:
        laplacian = np.zeros((self.n_particles, self.n_particles))
        for i, j in self.bonds:
            laplacian[[i, j], [i, j]] += 1.0
            laplacian[[i, j], [j, i]] -= 1.0
        return self.stiffness * laplacian

    def sample(self, n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
        """One configuration."""
        precisions, modes = np.linalg.eigh(self._laplacian())
        # The first mode moves all particles alike.
        amplitudes = jax.random.normal(key, (n_particles - 1, dimension))
        widths = jnp.asarray(precisions[1:] ** -0.5, amplitudes.dtype)[:, None]
        return jnp.asarray(modes[:, 1:], amplitudes.dtype) @ (widths * amplitudes)

    def log_prob(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Its log density."""
        n, dimension = positions.shape
        first, second = np.asarray(self.bonds).T
        energy = 0.5 * self.stiffness * jnp.sum((positions[first] - positions[second]) ** 2)
        log_determinant = float(np.sum(np.log(np.linalg.eigvalsh(self._laplacian())[1:])))
        return -energy + 0.5 * dimension * (log_determinant - (n - 1) * math.log(2.0 * math.pi))
