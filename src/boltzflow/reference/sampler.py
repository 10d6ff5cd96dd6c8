"""Makes reference data: the schedule around the tempering sampler, and what it reports."""

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from boltzflow import seeds
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, RunError
from boltzflow.progress import FractionOf, Wanted, duration, told
from boltzflow.reference import journal
from boltzflow.reference.diagnostics import autocorrelation_time
from boltzflow.reference.islands import ISLANDS, Islands, join
from boltzflow.reference.result import (
    ReferenceResult,
    apply_symmetries,
    chain_by_chain,
    check_numbers,
    given_frames,
    judged,
    provenance,
)
from boltzflow.reference.tempering import Draws, SweepInfo
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

_CHAINS = 256
_DRAWS_PER_CHAIN = 32
# Draws between two states that are kept; a kill loses no more.
_CHUNK = 16
_WARM_UP_SWEEPS = 400
_PILOT_SWEEPS = 256
# Of an energy outside JAX, whose calls take milliseconds where compiled ones take microseconds.
_EXPENSIVE_CHAINS = 4
_EXPENSIVE_PILOT_SWEEPS = 32
# Hottest temperature of the default ladder in units of the target's: hot enough to cross the barriers of that target.
_HOTTEST = {"double_well": 4.0, "lennard_jones": 1.5}


def default_temperatures(target: Target) -> tuple[float, ...]:
    """A geometric ladder from 1 to the target's hottest useful temperature.

    The fluctuations of u grow like the square root of half the degrees of freedom, and neighbours must overlap in energy, so the
    number of temperatures is 1 + ln(hottest)·sqrt(degrees of freedom / 2), rounded up.

    Args:
        target: the target.
    """
    hottest = _HOTTEST.get(target.name, 3.0)
    rungs = math.ceil(math.log(hottest) * math.sqrt(target.degrees_of_freedom / 2))
    return tuple(float(t) for t in np.geomspace(1.0, hottest, max(rungs, 1) + 1))


def sample(
    target: Target,
    n: int,
    *,
    seed: int = 0,
    temperatures: Sequence[float] | None = None,
    chains: int | None = None,
    progress: Wanted = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> ReferenceResult:
    """Draws decorrelated configurations by parallel tempering with Hamiltonian Monte Carlo.

    Chains of ladders run side by side, compiled as a whole; of an energy outside JAX, which is expensive, few chains with a short warm-up,
    so that the first frames come soon. A warm-up fits the step size of each temperature and is thrown away; a
    pilot run with frozen step sizes measures the autocorrelation of energy and radius of gyration; then every chain gives a frame each
    time that this many sweeps have passed. Each frame is at last moved by a random symmetry of the target (rotation, reflection where
    that is one, permutation within the classes), which leaves the density as it is.

    Frames are ordered chain by chain. A density without energy has its frames already: n of them (all if there are fewer) are returned in
    random order.

    Args:
        target: the target.
        n: number of frames.
        seed: the same seed on the same machine gives the same frames.
        temperatures: ladder as multiples of the target's temperature, ascending from 1; None: `default_temperatures`.
        chains: ladders side by side; None: up to 256, with about 32 frames or more of each, or 4 of an energy outside JAX.
        progress: told how far it is; None: a bar where somebody looks on (`progress.chosen`).
        out: data file that is written at the end. What is done on the way to it lies in a folder beside it, so that a run that was
            killed goes on with `resume`, bit-identical to one that was not; the folder goes when the file is there.
        resume: continue the interrupted run towards `out`, if there is one.

    Returns:
        Frames and diagnostics. A failed convergence is told in `diagnostics["converged"]` and `sentence()`, not raised.

    Raises:
        DataError: if n or chains is not positive, or the temperatures do not ascend from 1.
        RunError: if `out` is there already or cannot be written, is being made by another process, or was begun with other arguments.
        TargetError: if the energy of a starting configuration is not finite, or lacks a symmetry that the target states.
    """
    check_numbers(n, chains)
    seed = seeds.checked(seed)
    if not target.has_energy:
        result = given_frames(target, n, seed=seed)
        if out is not None:
            result.dataset.save_or_rescue(Path(out))
        return result
    target.check_energy()
    if out is not None and Path(out).exists():
        raise RunError(f"{out} exists already; choose another file, or delete it to make the frames again.")
    if chains is None and is_expensive(target):
        chains = _EXPENSIVE_CHAINS
    elif chains is None:
        chains = ISLANDS * max(1, min(_CHAINS, n // _DRAWS_PER_CHAIN) // ISLANDS)
    rungs = default_temperatures(target) if temperatures is None else tuple(float(t) for t in temperatures)
    if not rungs or rungs[0] != 1.0 or any(hot <= cold for cold, hot in zip(rungs, rungs[1:], strict=False)):
        raise DataError(f"temperatures are multiples of the target's that ascend from 1, such as 1,1.5,2; got {rungs}.")
    with told(progress) as bar:
        plan = _Plan(target, n, seed, rungs, chains, FractionOf(bar, f"reference frames of {target.name}"))
        if out is None:
            return _finished(plan, _run(plan, None))
        path = Path(out)
        with journal.opened(path, plan.identity, resume=resume) as steps:
            result = _finished(plan, _run(plan, steps))
            result.dataset.save_or_rescue(path)
            journal.remove(path)
    return result


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is to be done; the result depends on nothing else.

    Attributes:
        target: the target.
        n: frames.
        seed: seed.
        rungs: temperatures as multiples of the target's.
        chains: ladders side by side.
        report: told the fraction done and what is being done.
    """

    target: Target
    n: int
    seed: int
    rungs: tuple[float, ...]
    chains: int
    report: FractionOf

    @property
    def draws(self) -> int:
        """Frames of each chain; with fewer R-hat could not tell anything."""
        return max(-(-self.n // self.chains), _DRAWS_PER_CHAIN // 2)

    @property
    def chunks(self) -> int:
        """Calls of the compiled program, after each of which the state can be kept."""
        return -(-self.draws // _CHUNK)

    @property
    def chunk(self) -> int:
        """Draws of a call."""
        return -(-self.draws // self.chunks)

    @property
    def pilots(self) -> int:
        """Calls that measure the autocorrelation."""
        return -(-(_EXPENSIVE_PILOT_SWEEPS if is_expensive(self.target) else _PILOT_SWEEPS) // self.chunk)

    @property
    def warm_up(self) -> tuple[tuple[int, float], ...]:
        """Sweeps of the warm-up and how fast step sizes are fitted in them, part by part: first fast and then averaged.

        The first sweeps of few must be fast to find the size at all.
        """
        half = _WARM_UP_SWEEPS // 2
        return ((16, 2.0), (16, 0.5), (16, 0.1)) if is_expensive(self.target) else ((half, 0.5), (half, 0.1))

    @property
    def identity(self) -> dict[str, Any]:
        """What an interrupted run must agree on to be continued."""
        return {
            "target": self.target.fingerprint,
            "number of frames": self.n,
            "seed": self.seed,
            "temperatures": list(self.rungs),
            "chains": self.chains,
            "precision": str(jnp.zeros(()).dtype),
            "versions": ", ".join(f"{package} {metadata.version(package)}" for package in ("boltzflow", "jax", "blackjax")),
        }


class _Drawn(NamedTuple):
    draws: Draws
    times: dict[str, float]
    thin: int
    step_sizes: Float[np.ndarray, " T"]
    seconds: float
    gradients: int


def _run(plan: _Plan, steps: journal.Journal | None) -> _Drawn:
    """Warm-up, pilot and sampling; each call's draws and the state after it go into the journal, and what is there is not done again."""
    began, before = time.perf_counter(), 0.0
    key_run = jax.random.split(seeds.key(plan.seed))[0]
    pilots = plan.pilots
    found = [steps.read(number) for number in range(steps.done)] if steps is not None else []
    drawn = [_unpacked(arrays) for arrays in found[1:]]
    pace = None
    plan.report(0.0, "compiling")
    with Islands(plan.target, plan.rungs, plan.chains, plan.chunk, key=key_run) as islands:
        if found:
            islands.restore(found[-1])
            before = float(found[-1]["seconds"])

        def keep(draws: Draws | None) -> None:
            if steps is not None:
                seconds = np.asarray(before + time.perf_counter() - began)
                steps.write({**islands.snapshot(), **(_packed(draws) if draws is not None else {}), "seconds": seconds})

        if not found:
            for number, (sweeps, gain) in enumerate(plan.warm_up, start=1):
                plan.report(0.0, f"warm-up, part {number} of {len(plan.warm_up)}")
                islands.warm_up(sweeps, gain)
            keep(None)
        while len(drawn) < pilots:
            plan.report(0.05, "measuring the autocorrelation")
            mark = time.perf_counter()
            drawn.append(islands.produce(1))
            pace = time.perf_counter() - mark
            keep(drawn[-1])
        times = {name: autocorrelation_time(values) for name, values in _observables(join(drawn[:pilots])).items()}
        thin = math.ceil(max(times.values()))
        about = "" if pace is None else f", about {duration(pace * thin * (pilots + plan.chunks - len(drawn)))} in all"
        while len(drawn) < pilots + plan.chunks:
            plan.report(0.1 + 0.9 * (len(drawn) - pilots) / plan.chunks, f"sampling, a frame every {thin} sweeps{about}")
            drawn.append(islands.produce(thin))
            keep(drawn[-1])
        step_sizes, gradients = islands.step_sizes(), islands.gradients
    return _Drawn(join(drawn[pilots:]), times, thin, step_sizes, before + time.perf_counter() - began, gradients)


def _finished(plan: _Plan, drawn: _Drawn) -> ReferenceResult:
    """Frames, each moved by a symmetry, and what can be said of them."""
    target, chains = plan.target, plan.chains
    key_symmetry = jax.random.split(seeds.key(plan.seed))[1]
    draws = len(drawn.draws.energy)
    observables, info = _observables(drawn.draws), drawn.draws.info
    positions = np.asarray(drawn.draws.positions).reshape(-1, target.n_particles, target.dimension)[chain_by_chain(draws, chains, plan.n)]
    positions = apply_symmetries(positions, target, generator=np.random.default_rng(np.asarray(jax.random.key_data(key_symmetry))))
    found = judged(observables, positions, target)
    frame_energies, evaluations = found.pop("frame_energies"), found.pop("evaluations") + Evaluations(gradients=drawn.gradients)
    diagnostics = {
        **found,
        "acceptance": [float(a) for a in info.acceptance.mean(axis=0)],
        "step_sizes": [float(s) for s in drawn.step_sizes],
        "swap_rates": [float(s) for s in info.swap.mean(axis=0)],
        "temperatures": list(plan.rungs),
        "autocorrelation_sweeps": drawn.times,
        "thin": drawn.thin,
        "chains": chains,
        "seconds": drawn.seconds,
        **evaluations.as_meta(),
    }
    sampler, packages = "parallel tempering with Hamiltonian Monte Carlo (blackjax)", ("boltzflow", "jax", "blackjax", "numpy")
    origin = provenance(sampler, packages, jax.devices()[0].device_kind, diagnostics, seed=plan.seed, n=plan.n)
    dataset = Dataset(positions, target.fingerprint, target.units, origin, **molecule_folder.texts(target), energies=frame_energies)
    plan.report(1.0, "done")
    return ReferenceResult(dataset, diagnostics)


def _packed(draws: Draws) -> dict[str, np.ndarray]:
    """The arrays of draws by name."""
    return {f"draws{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(draws))}


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Draws:
    positions, energy, *info = (arrays[f"draws{number}"] for number in range(5))
    return Draws(positions, energy, SweepInfo(*info))  # pyright: ignore[reportArgumentType] (arrays of the host)


def _observables(draws: Draws) -> dict[str, Float[np.ndarray, "C K"]]:
    return {
        "energy": np.asarray(draws.energy, np.float64).T,
        "radius_of_gyration": radius_of_gyration(np.asarray(draws.positions, np.float64)).T,
    }
