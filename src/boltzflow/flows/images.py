"""Mirror images, where a flow meets a target that means one enantiomer.

Many flows are symmetric under reflections and draw either mirror image of a chiral molecule alike, while the target means one. A
configuration whose centres all have the other chirality is the mirror image of a right one, which counts in its place: it is drawn from the
folded density, q(x) + q(-x) = 2 q(x) on the right enantiomer. Its energy is computed at the configuration that counts: the energy
of the mirror image may be another, by as much as kT with the correction maps of backbone torsions (CMAP) of some force fields.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from boltzflow.flows.base import AbstractFlow
from boltzflow.targets.base import Target

# Random configurations are moved off the target's starts by this share of the distances between neighbours.
_NOISE = 0.05


def log_images(flow: AbstractFlow, target: Target) -> float:
    """What the density of the right enantiomer gains when mirror images are reflected: ln 2, or 0 where they are not."""
    return math.log(2.0) if target.chiral_centres and flow.mirror_symmetric else 0.0


def energy_that_counts(flow: AbstractFlow, target: Target) -> Callable[[Float[Array, "N D"]], Float[Array, ""]]:
    """Reduced energy of the configuration that counts for one of the flow, a JAX function in the target's units.

    That is the mirror image where all chiral centres have the other chirality and the flow is symmetric under reflections, else the
    configuration itself. Gradients are with respect to the configuration of the flow.
    """
    if log_images(flow, target) == 0.0:
        return target.energy

    def energy(positions: Float[Array, "N 3"]) -> Float[Array, ""]:
        mirrored = jnp.all(volumes(target, positions) < 0)
        return target.energy(jnp.where(mirrored, -positions, positions))

    return energy


def volumes(target: Target, positions: Float[Array, "N 3"]) -> Float[Array, " centres"]:
    """Volumes at the chiral centres of a target, positive where the chirality is the one that is meant."""
    corners = positions[np.array([centre.neighbours for centre in target.chiral_centres])]
    edges = corners[:, :3] - corners[:, 3:]
    found = jnp.sum(edges[:, 0] * jnp.cross(edges[:, 1], edges[:, 2]), axis=-1)
    return found * np.array([centre.sign for centre in target.chiral_centres], found.dtype)


def mirror_difference(target: Target, *, n: int = 8, seed: int = 0) -> float:
    """Largest difference of the energies of mirror images, in kT, over random configurations; infinite where only one of two is finite.

    Zero up to rounding where reflections are a symmetry of the energy, which nothing else tells: also the energy of a molecule with one
    chirality may be blind to it, and that of a molecule without any need not be.

    Args:
        target: the target; it has an energy.
        n: number of configurations, made of as many starts of the target.
        seed: seed of the starts and of the noise.
    """
    keys = jax.random.split(jax.random.key(seed), n)
    starts = np.stack([np.asarray(target.starting_positions(key=key), np.float64) for key in keys])
    distances = np.linalg.norm(starts[:, :, None] - starts[:, None], axis=-1)
    nearest = np.where(np.eye(target.n_particles, dtype=bool), np.inf, distances).min(axis=-1)
    noise = np.random.default_rng(seed).standard_normal(starts.shape)
    x = starts + _NOISE * float(np.median(nearest)) * noise
    # In an even number of dimensions -x is a rotation of x.
    image = x * np.where(np.arange(target.dimension) == 0, -1.0, 1.0)
    one, other = (np.asarray(target.energies(jnp.asarray(part - part.mean(axis=1, keepdims=True))), np.float64) for part in (x, image))
    known = np.isfinite(one) | np.isfinite(other)
    return float(np.max(np.abs(one - other)[known], initial=0.0))
