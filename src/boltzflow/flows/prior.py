"""The prior of every flow: a standard normal on the zero-CoM subspace."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def sample(n_particles: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "N D"]:
    """One configuration: independent normals minus their mean, which is the standard normal of the subspace."""
    positions = jax.random.normal(key, (n_particles, dimension))
    return positions - jnp.mean(positions, axis=0)


def log_prob(positions: Float[Array, "N D"]) -> Float[Array, ""]:
    """Log density on the zero-CoM subspace, its (N-1)·D dimensional normalisation included."""
    degrees_of_freedom = (positions.shape[0] - 1) * positions.shape[1]
    return -0.5 * jnp.sum(positions**2) - 0.5 * degrees_of_freedom * math.log(2.0 * math.pi)
