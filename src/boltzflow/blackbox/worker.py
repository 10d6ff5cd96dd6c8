"""What runs in a worker: the energy function on one configuration after another, failures caught one by one."""

import contextlib
import faulthandler
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from boltzflow import runtime

# (positions (N, D), whether a gradient is wanted) -> energy, or (energy, gradient (N, D)); the units are those of the caller. One that
# takes many at once does so as `many`: (positions (B, N, D), whether gradients are wanted) -> energies (B,), or (energies, gradients
# (B, N, D)).
Function = Callable[[Float[np.ndarray, "N D"], bool], Any]


class Outcome(NamedTuple):
    """Results of a piece of a batch.

    Attributes:
        energies: one per configuration, not finite where it failed.
        gradients: zero where there is none.
        has_gradient: whether the function gave a gradient each time; None if no configuration told.
        failures: one sentence for each configuration that failed, by its place in the piece.
    """

    energies: Float[np.ndarray, " B"]
    gradients: Float[np.ndarray, "B N D"]
    has_gradient: bool | None
    failures: dict[int, str]


def evaluate(function: Function, positions: Float[np.ndarray, "B N D"], gradient: bool, timeout: float | None = None) -> Outcome:
    """Energies of a piece of a batch; a configuration that raises fails alone.

    Args:
        function: the energy function.
        positions: the configurations.
        gradient: whether gradients are wanted.
        timeout: seconds that one configuration may take before this process ends itself; None: no limit.
    """
    outcome = Outcome(np.full(len(positions), np.inf), np.zeros(positions.shape), None, {})
    together = _together(function, positions, gradient, timeout)
    for place, configuration in enumerate(positions):
        try:
            if together is None:
                with _watched(timeout):
                    energy, slope = _one(function, configuration, gradient)
            else:
                energy, slope = together[0][place], None if together[1] is None else together[1][place]
        except (Exception, SystemExit) as error:
            outcome.failures[place] = _describe(error)
            continue
        outcome = outcome._replace(has_gradient=slope is not None and outcome.has_gradient is not False)
        if np.isfinite(energy):
            outcome.energies[place] = energy
        else:
            outcome.failures[place] = f"its energy is {energy}"
        if slope is not None and np.all(np.isfinite(slope)):
            outcome.gradients[place] = slope
        elif slope is not None:
            outcome.failures.setdefault(place, "its gradient is not finite")
            if gradient:
                # With a gradient of zero it would pull as if there were no forces.
                outcome.energies[place] = np.inf
    return outcome


def _together(
    function: Function, positions: Float[np.ndarray, "B N D"], gradient: bool, timeout: float | None
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B N D"] | None] | None:
    """Energies and gradients in one call of a function that takes many; None of another, or where one that fails must be told apart."""
    if len(positions) < 2:
        return None
    try:
        many = getattr(function, "many", None)
        if many is None:
            return None
        with _watched(None if timeout is None else timeout * len(positions)):
            return of_many(many(positions, gradient), positions)
    except (Exception, SystemExit):
        return None


def of_many(value: Any, positions: Float[np.ndarray, "B N D"]) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B N D"] | None]:
    """What a function of many positions gave, checked.

    Raises:
        ValueError: if it has another shape.
    """
    energy, slope = value if isinstance(value, tuple) else (value, None)
    energy = np.asarray(energy, np.float64)
    if energy.shape != positions.shape[:1]:
        raise ValueError(f"the energies of {len(positions)} configurations must have shape ({len(positions)},), but have {energy.shape}")
    if slope is None:
        return energy, None
    slope = np.asarray(slope, np.float64)
    if slope.shape != positions.shape:
        raise ValueError(f"the gradients must have the shape {positions.shape} of the positions, but have {slope.shape}")
    return energy, slope


@contextlib.contextmanager
def _watched(timeout: float | None) -> Iterator[None]:
    """Ends this process if the block takes longer: a watchdog in C, which unlike a signal or a thread also stops compiled code."""
    if timeout is None:
        yield
        return
    faulthandler.dump_traceback_later(timeout, exit=True, file=_nowhere())
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _one(function: Function, positions: Float[np.ndarray, "N D"], gradient: bool) -> tuple[float, Float[np.ndarray, "N D"] | None]:
    value = function(positions, gradient)
    energy, slope = value if isinstance(value, tuple) else (value, None)
    energy = np.asarray(energy, np.float64)
    if energy.shape != ():
        raise ValueError(f"the energy of one configuration must be a number, but has shape {energy.shape}")
    if slope is None:
        return float(energy), None
    slope = np.asarray(slope, np.float64)
    if slope.shape != positions.shape:
        raise ValueError(f"the gradient must have the shape {positions.shape} of the positions, but has {slope.shape}")
    return float(energy), slope


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# Of the worker process of a pool of ours: its function, or why it has none, and the time limit.
_state: dict[str, Any] = {}


def initialise(pickled: bytes, timeout: float | None) -> None:
    """Makes a process of a pool of ours ready; the function comes as bytes so that it is imported after the environment is set."""
    runtime.become_worker()
    # Processes are the parallelism here; threads of each one's numerical libraries would only fight over the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _state["timeout"] = timeout
    try:
        _state["function"] = pickle.loads(pickled)
    except Exception as error:
        _state["problem"] = (
            f"the worker processes cannot import it ({_describe(error)}); define it in a module file, not in a notebook or at a prompt"
        )


def evaluate_here(positions: Float[np.ndarray, "B N D"], gradient: bool) -> Outcome:
    """`evaluate` with the function and the time limit of this process."""
    if "problem" in _state:
        problems = {place: str(_state["problem"]) for place in range(len(positions))}
        return Outcome(np.full(len(positions), np.inf), np.zeros(positions.shape), None, problems)
    return evaluate(_state["function"], positions, gradient, _state["timeout"])


def _nowhere() -> Any:
    if "nowhere" not in _state:
        _state["nowhere"] = open(os.devnull, "w")  # kept open as long as the process lives
    return _state["nowhere"]
