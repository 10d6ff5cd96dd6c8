"""Any Python function as a target: energies computed outside JAX, in worker processes."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.blackbox import farm
from boltzflow.blackbox.evaluator import Evaluator, Failures
from boltzflow.blackbox.farm import Submits
from boltzflow.blackbox.functions import Batched, Converted, Plain
from boltzflow.blackbox.pools import GivenExecutor, OwnProcesses
from boltzflow.blackbox.worker import Function
from boltzflow.errors import TargetError
from boltzflow.targets._host_call import host_energy, host_energy_and_gradient
from boltzflow.targets.base import BOLTZMANN, ExactValues, Target
from boltzflow.targets.invariance import Symmetries

EnergyUnit = Literal["kT", "kJ/mol", "kcal/mol", "eV", "hartree"]
LengthUnit = Literal["nm", "angstrom", "bohr"]
Result = float | tuple[float, Float[np.ndarray, "N D"]]

KJ_PER_MOL = {"kJ/mol": 1.0, "kcal/mol": 4.184, "eV": 96.48533212331, "hartree": 2625.4996394799}
"""Energy units."""
NM = {"nm": 1.0, "angstrom": 0.1, "bohr": 0.0529177210903}
"""Length units."""

# Energies in kT whose differences single precision would round by 0.00003 or more.
_LARGE = 1000.0


def from_calculator(
    function: Callable[[Float[np.ndarray, "N D"]], Result],
    n_particles: int,
    dimension: int = 3,
    *,
    name: str,
    energy_unit: EnergyUnit = "kT",
    length_unit: LengthUnit | None = None,
    reference_energy: float | None = None,
    executor: Submits | str | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    batched: bool = False,
    classes: Sequence[int] | None = None,
    reflections: bool | None = None,
    units: str = "reduced",
    temperature: float | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
    start: Callable[[PRNGKeyArray], Float[Array, "N D"]] | None = None,
    exact: ExactValues | None = None,
) -> Target:
    """Makes a target of an energy that is a plain Python function.

    A batch of configurations is divided over worker processes. A configuration that raises, kills its process, takes too long or has an
    energy that is not finite gets energy +inf (weight zero) and a zero gradient, is counted in `failures(target)`, and costs the others
    nothing. A script that uses worker processes must do its work under `if __name__ == "__main__":`.

    Args:
        function: the energy of one configuration, positions (N, D) as float64 NumPy array -> energy, or -> (energy, its gradient (N, D)).
            A function without gradient serves wherever energies alone are needed. It is defined at the top level of a module, must not
            depend on the centre of mass, and is called in worker processes, which import that module.
        n_particles: N.
        dimension: D.
        name: a name; with `parameters` it tells this target from others in data files and checkpoints.
        energy_unit: unit of the function's energy; all but "kT" need the temperature.
        length_unit: unit of the positions that the function takes, if it is not that of the target; the target's is then "nm".
        reference_energy: in `energy_unit`; subtracted from the energy in double precision, and part of the fingerprint where it is given
            and not 0. Total energies of quantum chemistry are so large that single precision would round differences of interest. None:
            an energy of more than 1 000 kT on the starting configuration is subtracted, rounded to 0.001 `energy_unit`, and told in the
            target's `about`; it moves u and log Z by a constant, but is no part of the fingerprint, for the density is the same. With
            `exact` nothing is subtracted.
        executor: where to compute instead of in processes of our own: threads, `mpi4py.futures.MPIPoolExecutor`, Dask's
            `client.get_executor()` or its scheduler by name, "dask://HOST:PORT", or any other `concurrent.futures.Executor`. A crash costs
            one configuration only if the executor survives it.
        workers: number of processes, or how many tasks `executor` runs side by side; None: the number of cores.
        timeout: seconds that one configuration may take; None: no limit. Only for processes of our own.
        batched: whether the function takes many configurations at once, (B, N, D) -> energies (B,), or (energies, gradients (B, N, D)); a
            worker then calls it once for its piece of a batch, and one by one only where that fails.
        classes: interchangeability class of each particle; None: all particles are interchangeable if the energy shows it, which costs a
            few evaluations; else up to 8 of them are sorted into classes, and more are told apart one and all. The target's `about` says
            what was found.
        reflections: whether u is invariant under reflections; None: found by trying.
        units: unit of length of the target's positions, "reduced" or "nm".
        temperature: in kelvin, None in reduced units.
        parameters: what distinguishes this target from others of its name. The function itself is not part of the fingerprint: change
            the name or a parameter when you change the function.
        start: makes a starting configuration (N, D) from a key; None: a unit Gaussian on the zero-CoM subspace.
        exact: known values.

    Returns:
        The target.

    Raises:
        TargetError: if the units do not fit together, the function cannot be sent to worker processes, it fails on a starting
            configuration, gives other values for it from call to call, depends on the centre of mass or on directions in space, or lacks a
            symmetry that is given; or inside a daemonic worker of a process pool, which may have no processes of its own.
    """
    return from_worker_function(
        Batched(function) if batched else Plain(function),
        (n_particles, dimension),
        name=name,
        energy_unit=energy_unit,
        length_unit=length_unit,
        reference_energy=reference_energy,
        executor=executor,
        workers=workers,
        timeout=timeout,
        classes=classes,
        reflections=reflections,
        units=units,
        temperature=temperature,
        parameters=parameters or {},
        start=start,
        exact=exact,
    )


def failures(target: Target) -> Failures:
    """How many configurations of a target of `from_calculator`, `from_ase` or `gfn2_xtb` have failed, and how the first did.

    Args:
        target: the target.

    Raises:
        TargetError: if the target's energy is no such calculator.
    """
    evaluator = getattr(target.energy_function, "evaluator", None)
    if evaluator is None:
        raise TargetError(f"the energy of target {target.name!r} is computed by JAX, so it keeps no count of failures.")
    return evaluator.failures


def from_worker_function(
    function: Function,
    shape: tuple[int, int],
    *,
    name: str,
    energy_unit: EnergyUnit,
    length_unit: LengthUnit | None,
    reference_energy: float | None,
    executor: Submits | str | None,
    workers: int | None,
    timeout: float | None,
    parameters: Mapping[str, float | int | str | bool],
    classes: Sequence[int] | None,
    reflections: bool | None,
    tested: bool = False,
    **fields: Any,
) -> Target:
    """As `from_calculator`, of a function in the form that workers call: (positions, whether a gradient is wanted) -> result.

    `tested`: the symmetries are known to be there, so that only the values on starting configurations are looked at.

    Raises:
        TargetError: as `from_calculator`.
    """
    label = f"target {name!r}"
    if (workers is not None and workers < 1) or (timeout is not None and timeout <= 0):
        raise TargetError(f"the number of workers and the timeout of {label} must be positive, got {workers} and {timeout}.")
    if executor is not None and timeout is not None:
        raise TargetError(
            f"{label} has an executor of its own and a timeout, but only boltzflow's own worker processes can be stopped; set the limit in "
            "your executor, or leave `executor` out."
        )
    if length_unit is not None:
        fields["units"] = "nm"
    scaled, kt = _converted(function, label, energy_unit, length_unit, reference_energy or 0.0, fields.get("temperature"))
    pool = OwnProcesses(scaled, workers, timeout, label) if executor is None else GivenExecutor(scaled, farm.of(executor), workers)
    energy = CalculatorEnergy(Evaluator(pool, label=label, timeout=timeout), label)
    exact = fields.pop("exact", None)
    if reference_energy:
        parameters = {**parameters, "reference_energy": float(reference_energy)}
    target = Target(
        name=name,
        n_particles=shape[0],
        dimension=shape[1],
        energy_function=energy,
        classes=tuple(range(shape[0])) if classes is None else tuple(int(c) for c in classes),
        reflections=bool(reflections),
        parameters=dict(parameters),
        exact=exact or ExactValues(),
        **fields,
    )
    u, shown = _tried(target, None if classes is None else target.classes, reflections, executor is None, tested)
    about = [shown.found]
    if reference_energy is None and exact is None and abs(u) > _LARGE:
        reference = round(u / kt, 3)
        energy.reference = reference * kt
        about.append(f"energies are relative to {reference:.3f} {energy_unit}, the energy of the start")
    target = dataclasses.replace(target, classes=shown.classes, reflections=shown.reflections, about="; ".join(filter(None, about)))
    target.mark_checked()
    return target


def _converted(
    function: Function, label: str, energy_unit: str, length_unit: str | None, reference: float, temperature: float | None
) -> tuple[Function, float]:
    """The function in the target's units, and its energy unit in kT."""
    if energy_unit not in ("kT", *KJ_PER_MOL) or length_unit not in (None, *NM):
        raise TargetError(
            f"{label} has energies in {energy_unit!r} and lengths in {length_unit!r}; known are {', '.join(('kT', *KJ_PER_MOL))} and "
            f"{', '.join(NM)}."
        )
    if energy_unit != "kT" and (temperature is None or temperature <= 0):
        raise TargetError(f"{label} has energies in {energy_unit} and temperature {temperature}; pass `temperature=` in kelvin.")
    if not math.isfinite(reference):
        raise TargetError(f"{label} has the reference energy {reference}; pass a finite number, or leave it out.")
    energy = 1.0 if energy_unit == "kT" or temperature is None else KJ_PER_MOL[energy_unit] / (BOLTZMANN * temperature)
    length = 1.0 if length_unit is None else NM[length_unit]
    return (function if (length, energy, reference) == (1.0, 1.0, 0.0) else Converted(function, length, energy, reference)), energy


def _tried(
    target: Target, classes: Sequence[int] | None, reflections: bool | None, own_processes: bool, tested: bool
) -> tuple[float, Symmetries]:
    """The energy of the start in double precision, and the symmetries; few configurations, all of them in one batch if all is well."""
    evaluator = cast(CalculatorEnergy, target.energy_function).evaluator
    with warnings.catch_warnings():
        # A failure of the start is raised, with its reason.
        warnings.simplefilter("ignore", RuntimeWarning)
        trial = target.trial()
        try:
            shown = Symmetries(target.classes, target.reflections) if tested else trial.find(classes, reflections)
            u = trial.check_values()
        except TargetError as error:
            if np.isfinite(trial.start_energy) or not evaluator.failures.failed:
                raise
            guard = ""
            if own_processes and "process died" in evaluator.failures.first:
                guard = ' If every function dies so: a script must do its work under `if __name__ == "__main__":`.'
            raise TargetError(
                f"the energy function of target {target.name!r} fails on a starting configuration: {evaluator.failures.first}. Mend the "
                f"function, or pass a start of finite energy.{guard}"
            ) from error
    # Configurations made up to try symmetries on are no failures of the user's.
    evaluator.failures = Failures(evaluator.failures.evaluated)
    return u, shown


class CalculatorEnergy:
    """The reduced energy as JAX sees it: a callback that takes a batch at once, with the function's own gradient.

    Attributes:
        evaluator: computes batches, and counts failures.
        reference: in kT, subtracted in double precision.
    """

    def __init__(self, evaluator: Evaluator, label: str) -> None:
        self.evaluator = evaluator
        self.reference = 0.0
        self._energy = _differentiable(self, label)

    def __call__(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Reduced energy of one configuration; +inf where it failed."""
        return self._energy(positions)

    def in_double(self, positions: Float[np.ndarray, "B N D"]) -> Float[np.ndarray, " B"]:
        """Reduced energies of a batch in double precision, without JAX; +inf where they failed."""
        return self.evaluator(np.asarray(positions, np.float64), False)[0] - self.reference


def _differentiable(energy_of: CalculatorEnergy, label: str) -> Callable[[Float[Array, "N D"]], Float[Array, ""]]:
    evaluator = energy_of.evaluator

    def host(positions: np.ndarray, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
        batch, shape = positions.shape[:-2], positions.shape[-2:]
        u, slope = evaluator(positions.reshape(-1, *shape).astype(np.float64), gradient)
        with np.errstate(over="ignore"):
            u, slope = (u - energy_of.reference).astype(positions.dtype), slope.astype(positions.dtype)
        # Beyond the range of single precision.
        slope[~(np.isfinite(u) & np.isfinite(slope).all(axis=(1, 2)))] = 0.0
        return u.reshape(batch), slope.reshape(*batch, *shape)

    # Rules for forward mode, from which JAX makes reverse mode, too.
    @jax.custom_jvp
    def energy(positions: Float[Array, "N D"]) -> Float[Array, ""]:
        return host_energy(positions, host)

    @jax.custom_jvp
    def energy_and_gradient(positions: Float[Array, "N D"]) -> tuple[Float[Array, ""], Float[Array, "N D"]]:
        if evaluator.has_gradient is False:
            raise TargetError(
                f"the energy function of {label} gives no gradient, which this method needs; let it return (energy, gradient), or use a "
                "method that needs energies alone."
            )
        return host_energy_and_gradient(positions, host)

    @energy.defjvp
    def energy_jvp(primals: Any, tangents: Any) -> Any:
        u, gradient = energy_and_gradient(*primals)
        return u, jnp.sum(gradient * tangents[0])

    @energy_and_gradient.defjvp
    def second_jvp(primals: Any, tangents: Any) -> Any:
        raise TargetError(f"the second derivative of the energy of {label} is not known; use a method that needs first derivatives alone.")

    return energy


def is_expensive(target: Target) -> bool:
    """Whether the energy is computed outside JAX, so that configurations that have no use for one are worth leaving out."""
    return getattr(target.energy_function, "evaluator", None) is not None
