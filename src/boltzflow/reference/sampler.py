"""Makes reference data: the schedule around the tempering sampler, and what it reports."""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from boltzflow import seeds
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, RunError, TargetError
from boltzflow.progress import FractionOf, Wanted, duration, told
from boltzflow.reference import journal
from boltzflow.reference.diagnostics import autocorrelation_time
from boltzflow.reference.result import (
    ReferenceResult,
    apply_symmetries,
    chain_by_chain,
    check_numbers,
    given_frames,
    judged,
    provenance,
)
from boltzflow.reference.tempering import Draws, Ladder, LadderState, SweepInfo, advance
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

_CHAINS = 256
_DRAWS_PER_CHAIN = 32
_ISLANDS = 4
# Pairs of particles over the chains of an island, at one temperature: with more than this, LJ55 leaves the cache and takes 1.8 times as
# long for a chain.
_ISLAND_PAIRS = 50_000
# Draws between two states that are kept; a kill loses no more.
_CHUNK = 16
_WARM_UP_SWEEPS = 400
_PILOT_SWEEPS = 256
# Of an energy outside JAX, whose calls take milliseconds where compiled ones take microseconds.
_EXPENSIVE_CHAINS = 4
_EXPENSIVE_PILOT_SWEEPS = 32
_ACCEPTANCE = 0.85
# Chosen from a few settings tried with one seed each, not optimised. Gradients per independent frame at acceptance 0.8, as mean leapfrog
# steps × HMC steps between swaps: DW4 393 (6×2), 492 (12×1), 717 (12×2), 872 (24×1); LJ13 with four temperatures up to 2 595 (12×1),
# 622 (12×2), 684 (24×1), a difference within the noise. LJ13 without tempering needed 178 to 245, so tempering costs there and buys safety.
_LEAPFROG_STEPS = 12
# Bonds force short steps, a hundredth of what torsions need to turn. Alanine dipeptide: 2 000 gradients at each temperature from one
# independent frame to the next, by the radius of gyration (one setting, one seed).
_LEAPFROG_STEPS_OF_MOLECULES = 48
_HMC_STEPS = 1
_SNAPSHOT = ("coordinates", "energy", "gradient", "log_steps", "key")
# Hottest temperature of the default ladder in units of the target's: hot enough to cross the barriers of that target.
_HOTTEST = {"double_well": 4.0, "lennard_jones": 1.5}


def default_temperatures(target: Target) -> tuple[float, ...]:
    """A geometric ladder from 1 to the target's hottest useful temperature.

    The fluctuations of u grow like the square root of half the degrees of freedom, and neighbours must overlap in energy, so the
    number of temperatures is 1 + ln(hottest)·sqrt(degrees of freedom / 2), rounded up.
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
        chains = _ISLANDS * max(1, min(_CHAINS, n // _DRAWS_PER_CHAIN) // _ISLANDS)
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


def _run(plan: _Plan, steps: journal.Journal | None) -> _Drawn:
    """Warm-up, pilot and sampling; each call's draws and the state after it go into the journal, and what is there is not done again."""
    began, before = time.perf_counter(), 0.0
    key_run = jax.random.split(seeds.key(plan.seed))[0]
    pilots = plan.pilots
    found = [steps.read(number) for number in range(steps.done)] if steps is not None else []
    drawn = [_unpacked(arrays) for arrays in found[1:]]
    pace = None
    plan.report(0.0, "compiling")
    with _Islands(plan.target, plan.rungs, plan.chains, plan.chunk, key=key_run) as islands:
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
        times = {name: autocorrelation_time(values) for name, values in _observables(_join(drawn[:pilots])).items()}
        thin = math.ceil(max(times.values()))
        about = "" if pace is None else f", about {duration(pace * thin * (pilots + plan.chunks - len(drawn)))} in all"
        while len(drawn) < pilots + plan.chunks:
            plan.report(0.1 + 0.9 * (len(drawn) - pilots) / plan.chunks, f"sampling, a frame every {thin} sweeps{about}")
            drawn.append(islands.produce(thin))
            keep(drawn[-1])
        step_sizes = islands.step_sizes()
    return _Drawn(_join(drawn[pilots:]), times, thin, step_sizes, before + time.perf_counter() - began)


def _finished(plan: _Plan, drawn: _Drawn) -> ReferenceResult:
    """Frames, each moved by a symmetry, and what can be said of them."""
    target, chains = plan.target, plan.chains
    key_symmetry = jax.random.split(seeds.key(plan.seed))[1]
    draws = len(drawn.draws.energy)
    observables, info = _observables(drawn.draws), drawn.draws.info
    positions = np.asarray(drawn.draws.positions).reshape(-1, target.n_particles, target.dimension)[chain_by_chain(draws, chains, plan.n)]
    positions = apply_symmetries(positions, target, generator=np.random.default_rng(np.asarray(jax.random.key_data(key_symmetry))))
    found = judged(observables, positions, target)
    frame_energies = found.pop("frame_energies")
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
    positions, energy, acceptance, swap = (arrays[f"draws{number}"] for number in range(4))
    return Draws(positions, energy, SweepInfo(acceptance, swap))  # pyright: ignore[reportArgumentType] (arrays of the host)


class _Programs(NamedTuple):
    start: Callable[[PRNGKeyArray, int], LadderState]
    advance: Callable[..., tuple[LadderState, Float[jax.Array, " T"], Draws]]


@functools.lru_cache(maxsize=4)
def _programs(target: Target, temperatures: tuple[float, ...]) -> _Programs:
    """The compiled programs of a ladder, kept for the next call with the same target object."""
    steps = _LEAPFROG_STEPS if target.topology is None else _LEAPFROG_STEPS_OF_MOLECULES
    ladder = Ladder(target, temperatures, leapfrog_steps=steps, hmc_steps=_HMC_STEPS)

    def start(key: PRNGKeyArray, chains: int) -> LadderState:
        keys = jax.random.split(key, (len(temperatures), chains))
        return ladder.init(jax.vmap(jax.vmap(lambda key: target.starting_positions(key=key)))(keys))

    def run(
        state: LadderState,
        log_steps: Float[jax.Array, " T"],
        thin: Int[jax.Array, ""],
        gain: Float[jax.Array, ""],
        key: PRNGKeyArray,
        draws: int,
    ) -> tuple[LadderState, Float[jax.Array, " T"], Draws]:
        return advance(ladder, state, log_steps, thin, gain, draws=draws, acceptance=_ACCEPTANCE, key=key)

    return _Programs(jax.jit(start, static_argnums=1), jax.jit(run, static_argnums=5))


class _Islands:
    """Groups of chains that run in threads of their own, for XLA uses one core for a compiled loop.

    The number of groups does not depend on the number of cores, so neither do the results.
    """

    def __init__(self, target: Target, temperatures: tuple[float, ...], chains: int, draws: int, *, key: PRNGKeyArray) -> None:
        # Energies outside JAX have processes of their own, which large batches serve best.
        together = jax.default_backend() != "cpu" or is_expensive(target)
        groups = 1 if together else island_count(chains, target.n_particles)
        self._programs = _programs(target, temperatures)
        self._draws = draws
        self._keys = list(jax.random.split(key, groups))
        self._states = [self._programs.start(self._next_key(group), chains // groups) for group in range(groups)]
        broken = sum(int(jnp.sum(~jnp.isfinite(state.energy))) for state in self._states)
        if broken:
            raise TargetError(
                f"{broken} of {chains * len(temperatures)} starting configurations of target {target.name!r} have no finite energy; give "
                "the target a `start` function that makes configurations without clashes."
            )
        scale = jnp.sqrt(jnp.mean(self._states[0].coordinates ** 2))
        self._log_steps = [jnp.full(len(temperatures), jnp.log(0.01 * scale))] * groups
        # No sweep at all: compiles the program once, before the threads would each do so.
        self._advance(0, thin=0, gain=0.0)
        self._threads = ThreadPoolExecutor(max_workers=min(groups, os.cpu_count() or 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def step_sizes(self) -> Float[np.ndarray, " T"]:
        """Step sizes of the temperatures, averaged over the groups."""
        return np.exp(np.mean([np.asarray(steps) for steps in self._log_steps], axis=0))

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that the next draws depend on: states of the chains, step sizes and keys."""
        arrays = {}
        for group, (state, steps, key) in enumerate(zip(self._states, self._log_steps, self._keys, strict=True)):
            values = (*state, steps, jax.random.key_data(key))
            arrays.update({f"{name}{group}": np.asarray(value) for name, value in zip(_SNAPSHOT, values, strict=True)})
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes back to what a snapshot holds."""
        for group in range(len(self._states)):
            *state, steps, key = (jnp.asarray(arrays[f"{name}{group}"]) for name in _SNAPSHOT)
            self._states[group], self._log_steps[group] = LadderState(*state), steps
            self._keys[group] = jax.random.wrap_key_data(key)

    def warm_up(self, sweeps: int, gain: float) -> None:
        """Fits the step sizes while the chains forget their start.

        Args:
            sweeps: how many, or a few more.
            gain: how far the step sizes follow the acceptance in each; they are averaged at last.
        """
        outcome = self._all(thin=-(-sweeps // self._draws), gain=gain)
        self._log_steps = [steps for _, steps, _ in outcome]

    def produce(self, thin: int) -> Draws:
        """Draws of all chains with frozen step sizes, on the host."""
        parts = [part for _, _, part in self._all(thin=thin, gain=0.0)]
        positions, energy = (np.concatenate(each, axis=1) for each in zip(*[part[:2] for part in parts], strict=True))
        rates: Any = jax.tree.map(lambda *each: np.mean(each, axis=0), *[part.info for part in parts])
        return parts[0]._replace(positions=positions, energy=energy, info=rates)

    def _all(self, *, thin: int, gain: float) -> list[tuple[LadderState, Float[jax.Array, " T"], Draws]]:
        outcome = list(self._threads.map(lambda group: self._advance(group, thin=thin, gain=gain), range(len(self._states))))
        self._states = [state for state, _, _ in outcome]
        return outcome

    def _advance(self, group: int, *, thin: int, gain: float) -> tuple[LadderState, Float[jax.Array, " T"], Draws]:
        arguments = (self._states[group], self._log_steps[group], thin, gain, self._next_key(group))
        return jax.block_until_ready(self._programs.advance(*arguments, self._draws))

    def _next_key(self, group: int) -> PRNGKeyArray:
        self._keys[group], key = jax.random.split(self._keys[group])
        return key


def island_count(chains: int, n_particles: int) -> int:
    """Number of islands among which the chains are divided evenly, each small enough for the cache where the chains allow it."""
    if chains % _ISLANDS:
        return 1
    groups = _ISLANDS
    while chains % (2 * groups) == 0 and chains // groups * n_particles**2 > _ISLAND_PAIRS:
        groups *= 2
    return groups


def _join(parts: Sequence[Draws]) -> Draws:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _observables(draws: Draws) -> dict[str, Float[np.ndarray, "C K"]]:
    return {
        "energy": np.asarray(draws.energy, np.float64).T,
        "radius_of_gyration": radius_of_gyration(np.asarray(draws.positions, np.float64)).T,
    }
