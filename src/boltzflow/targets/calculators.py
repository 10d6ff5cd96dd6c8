"""Any Python function as a target: energies computed outside JAX, in worker processes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from boltzflow.blackbox.evaluator import Evaluator, Failures
from boltzflow.blackbox.functions import Converted, Plain
from boltzflow.blackbox.pools import GivenExecutor, OwnProcesses
from boltzflow.blackbox.worker import Function
from boltzflow.errors import TargetError
from boltzflow.targets._host_call import host_energy, host_energy_and_gradient
from boltzflow.targets.base import BOLTZMANN, ExactValues, Target

EnergyUnit = Literal["kT", "kJ/mol", "kcal/mol", "eV", "hartree"]
LengthUnit = Literal["nm", "angstrom", "bohr"]
Result = float | tuple[float, Float[np.ndarray, "N D"]]

_KJ_PER_MOL = {"kJ/mol": 1.0, "kcal/mol": 4.184, "eV": 96.48533212331, "hartree": 2625.4996394799}
_NM = {"nm": 1.0, "angstrom": 0.1, "bohr": 0.0529177210903}


def from_calculator(
    function: Callable[[Float[np.ndarray, "N D"]], Result],
    n_particles: int,
    dimension: int = 3,
    *,
    name: str,
    energy_unit: EnergyUnit = "kT",
    length_unit: LengthUnit | None = None,
    reference_energy: float = 0.0,
    executor: Executor | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    classes: Sequence[int] | None = None,
    reflections: bool = True,
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
        reference_energy: in `energy_unit`; subtracted from the energy. Total energies of quantum chemistry are so large that single
            precision would otherwise round differences of interest. Part of the fingerprint.
        executor: where to compute instead of in processes of our own: threads, `mpi4py.futures.MPIPoolExecutor`, Dask's
            `client.get_executor()`, or any other `concurrent.futures.Executor`. A crash costs one configuration only if the executor
            survives it.
        workers: number of processes, or how many tasks `executor` runs side by side; None: the number of cores.
        timeout: seconds that one configuration may take; None: no limit. Only for processes of our own.
        classes: interchangeability class of each particle; None: all particles are interchangeable.
        reflections: whether u is invariant under reflections.
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
            configuration, or it depends on the centre of mass.
    """
    return from_worker_function(
        Plain(function),
        (n_particles, dimension),
        name=name,
        energy_unit=energy_unit,
        length_unit=length_unit,
        reference_energy=reference_energy,
        executor=executor,
        workers=workers,
        timeout=timeout,
        classes=(0,) * n_particles if classes is None else classes,
        reflections=reflections,
        units=units,
        temperature=temperature,
        parameters=parameters or {},
        start=start,
        exact=exact,
    )


def failures(target: Target) -> Failures:
    """How many configurations of a target of `from_calculator`, `from_ase` or `gfn2_xtb` have failed, and how the first did.

    Raises:
        TargetError: if the target's energy is no such calculator.
    """
    if not isinstance(target.energy_function, CalculatorEnergy):
        raise TargetError(f"the energy of target {target.name!r} is computed by JAX, so it keeps no count of failures.")
    return target.energy_function.evaluator.failures


def from_worker_function(
    function: Function,
    shape: tuple[int, int],
    *,
    name: str,
    energy_unit: EnergyUnit,
    length_unit: LengthUnit | None,
    reference_energy: float,
    executor: Executor | None,
    workers: int | None,
    timeout: float | None,
    parameters: Mapping[str, float | int | str | bool],
    classes: Sequence[int],
    **fields: Any,
) -> Target:
    """As `from_calculator`, of a function in the form that workers call: (positions, whether a gradient is wanted) -> result.

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
    scaled = _converted(function, label, energy_unit, length_unit, reference_energy, fields.get("temperature"))
    pool = OwnProcesses(scaled, workers, timeout, label) if executor is None else GivenExecutor(scaled, executor, workers)
    energy = CalculatorEnergy(Evaluator(pool, label=label, timeout=timeout), label)
    if fields.get("exact") is None:
        fields["exact"] = ExactValues()
    if reference_energy:
        parameters = {**parameters, "reference_energy": float(reference_energy)}
    target = Target(
        name=name,
        n_particles=shape[0],
        dimension=shape[1],
        energy_function=energy,
        classes=tuple(int(c) for c in classes),
        parameters=dict(parameters),
        **fields,
    )
    _check(target, energy.evaluator, executor is None)
    return target


def _converted(
    function: Function, label: str, energy_unit: str, length_unit: str | None, reference: float, temperature: float | None
) -> Function:
    if energy_unit not in ("kT", *_KJ_PER_MOL) or length_unit not in (None, *_NM):
        raise TargetError(
            f"{label} has energies in {energy_unit!r} and lengths in {length_unit!r}; known are {', '.join(('kT', *_KJ_PER_MOL))} and "
            f"{', '.join(_NM)}."
        )
    if energy_unit != "kT" and (temperature is None or temperature <= 0):
        raise TargetError(f"{label} has energies in {energy_unit} and temperature {temperature}; pass `temperature=` in kelvin.")
    energy = 1.0 if energy_unit == "kT" or temperature is None else _KJ_PER_MOL[energy_unit] / (BOLTZMANN * temperature)
    length = 1.0 if length_unit is None else _NM[length_unit]
    return function if (length, energy, reference) == (1.0, 1.0, 0.0) else Converted(function, length, energy, reference)


def _check(target: Target, evaluator: Evaluator, own_processes: bool) -> None:
    with warnings.catch_warnings():
        # A failure here is raised, with its reason.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            target.check_energy()
        except TargetError as error:
            failed = evaluator.failures
            if not failed.failed:
                raise
            guard = ""
            if own_processes and "process died" in failed.first:
                guard = ' If every function dies so: a script must do its work under `if __name__ == "__main__":`.'
            raise TargetError(
                f"the energy function of target {target.name!r} fails on a starting configuration: {failed.first}. Mend the function, or "
                f"pass a start of finite energy.{guard}"
            ) from error


class CalculatorEnergy:
    """The reduced energy as JAX sees it: a callback that takes a batch at once, with the function's own gradient.

    Attributes:
        evaluator: computes batches, and counts failures.
    """

    def __init__(self, evaluator: Evaluator, label: str) -> None:
        self.evaluator = evaluator
        self._energy = _differentiable(evaluator, label)

    def __call__(self, positions: Float[Array, "N D"]) -> Float[Array, ""]:
        """Reduced energy of one configuration; +inf where it failed."""
        return self._energy(positions)


def _differentiable(evaluator: Evaluator, label: str) -> Callable[[Float[Array, "N D"]], Float[Array, ""]]:
    def host(positions: np.ndarray, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
        batch, shape = positions.shape[:-2], positions.shape[-2:]
        u, slope = evaluator(positions.reshape(-1, *shape).astype(np.float64), gradient)
        with np.errstate(over="ignore"):
            u, slope = u.astype(positions.dtype), slope.astype(positions.dtype)
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
