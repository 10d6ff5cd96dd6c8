"""Lennard-Jones clusters in a harmonic trap around their centre of mass."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.targets._pairs import squared_distances
from boltzflow.targets.base import ExactValues, Target

# Keyed by (n, epsilon), for r_m = 1 and trap = 1.
_EXACT = {
    (13, 2.0): ExactValues(
        log_z=59.872,
        mean_energy=-42.96,
        entropy=16.91,
        log_z_error=0.015,
        entropy_error=0.02,
        source="log Z by annealed importance sampling; mean energy ± 0.006 by tools/lennard_jones_mean_energy.py",
    ),
    (55, 2.0): ExactValues(
        log_z=383.95,
        mean_energy=-325.4,
        entropy=58.5,
        log_z_error=0.15,
        entropy_error=0.2,
        source="long Markov chain Monte Carlo and annealed importance sampling; mean energy ± 0.2",
    ),
}


def lennard_jones(n: int, *, epsilon: float = 2.0, r_m: float = 1.0, trap: float = 1.0) -> Target:
    """N Lennard-Jones particles in 3-D, held together by a weak harmonic trap around the centre of mass.

    u(x) = epsilon sum over pairs i<j of [(r_m/r)^12 - 2 (r_m/r)^6] + (trap/2) sum over i of |x_i - mean(x)|^2

    **Counting.** Each pair is counted once here. Code that sums over ordered pairs, which is where the published LJ13 and LJ55
    frames of equivariant flow matching (Klein, Krämer and Noé, 2023) come from, has `epsilon=2` in this formula: the default,
    named `lj13` and `lj55`. Code that counts each pair once with unit depth (Midgley et al., 2023, augmented coupling flows) has
    `epsilon=1`: `lj13-once` and `lj55-once`. They are different densities, and their NLLs are different numbers.

    The singularity r^-12 is not smoothed: coincident particles have an infinite energy, hence weight zero.

    Args:
        n: number of particles, at least 2.
        epsilon: depth of the pair potential in units of kT, each pair counted once.
        r_m: distance at the minimum of the pair potential.
        trap: spring constant of the trap in units of kT per squared length; without it the cluster would evaporate and the density
            could not be normalised.

    Returns:
        The target, in reduced units.

    Raises:
        TargetError: if an argument is not positive.
    """
    for name, value in (("epsilon", epsilon), ("r_m", r_m), ("trap", trap)):
        if not value > 0:
            raise TargetError(f"a Lennard-Jones target needs {name} > 0, got {name} = {value:g}.")

    def energy(positions: Float[Array, "N D"]) -> Float[Array, ""]:
        attraction = (r_m**2 / squared_distances(positions)) ** 3
        centred = positions - jnp.mean(positions, axis=0)[None]
        return epsilon * jnp.sum(attraction * (attraction - 2.0)) + 0.5 * trap * jnp.sum(centred * centred)

    lattice = _face_centred_cubic(n) * r_m

    def start(key: PRNGKeyArray) -> Float[Array, "N D"]:
        # The n lattice points nearest to a random centre: compact, free of clashes, and of another shape for each key.
        key_centre, key_noise = jax.random.split(key)
        centre = r_m * jax.random.uniform(key_centre, (3,), minval=-0.5, maxval=0.5)
        _, nearest = jax.lax.top_k(-jnp.sum((lattice - centre[None]) ** 2, axis=-1), n)
        positions = jnp.asarray(lattice)[nearest] + 0.02 * r_m * jax.random.normal(key_noise, (n, 3))
        return positions - jnp.mean(positions, axis=0)[None]

    parameters = {"epsilon": float(epsilon), "r_m": float(r_m), "trap": float(trap)}
    published = parameters["r_m"] == 1.0 and parameters["trap"] == 1.0
    target = Target(
        name="lennard_jones",
        n_particles=n,
        dimension=3,
        energy_function=energy,
        classes=(0,) * n,
        parameters=parameters,
        start=start,
        exact=_EXACT.get((n, parameters["epsilon"]), ExactValues()) if published else ExactValues(),
    )
    # A sum over pairs of distances has all symmetries; tests try them.
    target.mark_checked()
    return target


def _face_centred_cubic(n: int) -> np.ndarray:
    """Lattice points with nearest neighbours at distance 1.05 that hold the n points nearest to any centre in the middle cell."""
    cells = int(np.ceil((n / 4) ** (1 / 3))) + 2
    corner = np.stack(np.meshgrid(*[np.arange(-cells, cells + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    points = (corner + basis).reshape(-1, 3)
    points = points[np.sum(points**2, axis=-1) <= cells**2]
    return (1.05 * np.sqrt(2.0) * points).astype(np.float32)
