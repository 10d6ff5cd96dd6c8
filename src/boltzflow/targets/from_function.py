"""Any JAX function as a target."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.targets.base import ExactValues, Target
from boltzflow.targets.confinement import check_confinement

# Rounding in kT that is told.
_ROUNDED = 0.005


def from_function(
    fn: Callable[[Float[Array, "N D"]], Float[Array, ""]],
    n_particles: int,
    dimension: int,
    *,
    name: str,
    classes: Sequence[int] | None = None,
    reflections: bool | None = None,
    units: str = "reduced",
    temperature: float | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
    start: Callable[[PRNGKeyArray], Float[Array, "N D"]] | None = None,
    exact: ExactValues | None = None,
) -> Target:
    """Makes a target of a reduced energy written in JAX.

    The symmetries are tried on random configurations: those that are given must hold, those that are not given are found. Rotations must
    always hold.

    Args:
        fn: reduced energy u = U/kT of one configuration, (N, D) -> (). It must not depend on the centre of mass, and exp(-u) must be
            integrable over the zero-CoM subspace.
        n_particles: N.
        dimension: D.
        name: a name; with `parameters` it tells this target from others in data files and checkpoints.
        classes: interchangeability class of each particle; None: found by exchanging particles, and told in the target's `about`.
        reflections: whether u is invariant under reflections; None: found by trying, and told likewise. False, where it is, means one
            chirality only.
        units: unit of length of the positions, "reduced" or "nm".
        temperature: in kelvin, None in reduced units.
        parameters: what distinguishes this target from others of its name. The function itself is not part of the fingerprint: change
            the name or a parameter when you change the function.
        start: makes a starting configuration (N, D) from a key; None: a unit Gaussian on the zero-CoM subspace.
        exact: known values.

    Returns:
        The target.

    Raises:
        TargetError: if the function fails, does not return a scalar, is not finite on a starting configuration, depends on the centre of
            mass or on directions in space, lacks a symmetry that is given, or does not hold its particles together.
    """
    target = Target(
        name=name,
        n_particles=n_particles,
        dimension=dimension,
        energy_function=fn,
        classes=tuple(range(n_particles)) if classes is None else tuple(int(c) for c in classes),
        reflections=bool(reflections),
        units=units,
        temperature=temperature,
        parameters=dict(parameters or {}),
        start=start,
        exact=exact or ExactValues(),
    )
    trial = target.trial()
    trial.check_values()
    shown = trial.find(None if classes is None else target.classes, reflections)
    warn_if_rounded(name, check_confinement(name, trial.energies, trial.start))
    target = dataclasses.replace(target, classes=shown.classes, reflections=shown.reflections, about=shown.found)
    target.mark_checked()
    return target


def warn_if_rounded(name: str, energy: float) -> None:
    """Tells of a constant in the energy that costs the digits of its differences; JAX computes them in the precision that is set."""
    rounded = 0.5 * float(np.spacing(jnp.asarray(abs(energy), jnp.zeros(()).dtype)))
    if rounded > _ROUNDED:
        warnings.warn(
            f"the energy of target {name!r} is near {energy:.6g} kT, which rounds its differences to {rounded:.2g} kT in single precision; "
            "subtract a reference energy inside the function, term by term where it is a sum, or compute in double precision.",
            stacklevel=3,
        )
