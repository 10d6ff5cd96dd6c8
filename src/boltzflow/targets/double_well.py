"""The double-well cluster of Köhler, Klein and Noé (2020), "Equivariant Flows", section 5; DW4 with its default arguments."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.targets._pairs import distances
from boltzflow.targets.base import ExactValues, Target

_DW4 = ExactValues(
    log_z=29.66723,
    mean_energy=-22.54140,
    entropy=7.12584,
    source="numerical quadrature, converged to all digits (tests/physics/test_reference.py)",
)


def double_well(
    n_particles: int = 4,
    dimension: int = 2,
    *,
    a: float = 0.0,
    b: float = -4.0,
    c: float = 0.9,
    d0: float = 4.0,
) -> Target:
    """N particles in D dimensions that interact by double wells of their distances.

    u(x) = sum over pairs i<j of a (r - d0) + b (r - d0)^2 + c (r - d0)^4, each pair counted once. (The published formula sums over
    ordered pairs with a factor 1/2 at temperature 1, which is the same.) Invariant under permutations, rotations, reflections and
    translations.

    Args:
        n_particles: N.
        dimension: D.
        a: linear coefficient.
        b: quadratic coefficient; negative for a double well.
        c: quartic coefficient, positive.
        d0: distance at the barrier.

    Returns:
        The target, in reduced units.

    Raises:
        TargetError: if c is not positive, for then the density cannot be normalised.
    """
    if not c > 0:
        raise TargetError(f"a double-well target needs c > 0 to be normalisable, got c = {c:g}.")

    def energy(positions: Float[Array, "N D"]) -> Float[Array, ""]:
        shifted = distances(positions) - d0
        squared = shifted * shifted
        return jnp.sum(a * shifted + squared * (b + c * squared))

    def start(key: PRNGKeyArray) -> Float[Array, "N D"]:
        positions = 0.75 * d0 * jax.random.normal(key, (n_particles, dimension))
        return positions - jnp.mean(positions, axis=0)[None]

    parameters = {"a": float(a), "b": float(b), "c": float(c), "d0": float(d0)}
    is_dw4 = (n_particles, dimension) == (4, 2) and parameters == {"a": 0.0, "b": -4.0, "c": 0.9, "d0": 4.0}
    target = Target(
        name="double_well",
        n_particles=n_particles,
        dimension=dimension,
        energy_function=energy,
        classes=(0,) * n_particles,
        parameters=parameters,
        start=start,
        exact=_DW4 if is_dw4 else ExactValues(),
    )
    # A sum over pairs of distances has all symmetries; tests try them.
    target.mark_checked()
    return target
