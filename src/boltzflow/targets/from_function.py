"""Any JAX function as a target."""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.targets.base import ExactValues, Target


def from_function(
    fn: Callable[[Float[Array, "N D"]], Float[Array, ""]],
    n_particles: int,
    dimension: int,
    *,
    name: str,
    classes: Sequence[int] | None = None,
    reflections: bool = True,
    units: str = "reduced",
    temperature: float | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
    start: Callable[[PRNGKeyArray], Float[Array, "N D"]] | None = None,
    exact: ExactValues | None = None,
) -> Target:
    """Makes a target of a reduced energy written in JAX.

    Args:
        fn: reduced energy u = U/kT of one configuration, (N, D) -> (). It must not depend on the centre of mass, and exp(-u) must be
            integrable over the zero-CoM subspace.
        n_particles: N.
        dimension: D.
        name: a name; with `parameters` it tells this target from others in data files and checkpoints.
        classes: interchangeability class of each particle; None: all particles are interchangeable.
        reflections: whether u is invariant under reflections.
        units: unit of length of the positions, "reduced" or "nm".
        temperature: in kelvin, None in reduced units.
        parameters: what distinguishes this target from others of its name. The function itself is not part of the fingerprint: change
            the name or a parameter when you change the function.
        start: makes a starting configuration (N, D) from a key; None: a unit Gaussian on the zero-CoM subspace.
        exact: known values.

    Returns:
        The target.

    Raises:
        TargetError: if the function fails, does not return a scalar, is not finite on a starting configuration, or depends on the
            centre of mass.
    """
    target = Target(
        name=name,
        n_particles=n_particles,
        dimension=dimension,
        energy_function=fn,
        classes=(0,) * n_particles if classes is None else tuple(int(c) for c in classes),
        reflections=reflections,
        units=units,
        temperature=temperature,
        parameters=dict(parameters or {}),
        start=start,
        exact=exact or ExactValues(),
    )
    target.check_energy()
    return target
