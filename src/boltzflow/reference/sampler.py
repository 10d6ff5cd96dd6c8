"""Makes reference data: the schedule around the tempering sampler, and what it reports."""

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from boltzflow import seeds
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, TargetError
from boltzflow.reference.diagnostics import autocorrelation_time
from boltzflow.reference.result import (
    Progress,
    ReferenceResult,
    apply_symmetries,
    chain_by_chain,
    check_numbers,
    given_frames,
    judged,
    provenance,
    radius_of_gyration,
)
from boltzflow.reference.tempering import Draws, Ladder, LadderState, advance
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target

_CHAINS = 256
_DRAWS_PER_CHAIN = 32
_ISLANDS = 4
# Pairs of particles over the chains of an island, at one temperature: with more than this, LJ55 leaves the cache and takes 1.8 times as
# long for a chain.
_ISLAND_PAIRS = 50_000
_CHUNK = 64
_WARM_UP_SWEEPS = 400
_PILOT_SWEEPS = 256
_ACCEPTANCE = 0.85
# Chosen from a few settings tried with one seed each, not optimised. Gradients per independent frame at acceptance 0.8, as mean leapfrog
# steps × HMC steps between swaps: DW4 393 (6×2), 492 (12×1), 717 (12×2), 872 (24×1); LJ13 with four temperatures up to 2 595 (12×1),
# 622 (12×2), 684 (24×1), a difference within the noise. LJ13 without tempering needed 178 to 245, so tempering costs there and buys safety.
_LEAPFROG_STEPS = 12
# Bonds force short steps, a hundredth of what torsions need to turn. Alanine dipeptide: 2 000 gradients at each temperature from one
# independent frame to the next, by the radius of gyration (one setting, one seed).
_LEAPFROG_STEPS_OF_MOLECULES = 48
_HMC_STEPS = 1
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
    progress: Progress | None = None,
) -> ReferenceResult:
    """Draws decorrelated configurations by parallel tempering with Hamiltonian Monte Carlo.

    Chains of ladders run side by side, compiled as a whole. A warm-up fits the step size of each temperature and is thrown away; a
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
        chains: ladders side by side; None: up to 256, with about 32 frames or more of each.
        progress: called with the fraction done and a word on what is being done.

    Returns:
        Frames and diagnostics. A failed convergence is told in `diagnostics["converged"]` and `sentence()`, not raised.

    Raises:
        DataError: if n or chains is not positive, or the temperatures do not ascend from 1.
        TargetError: if the energy of a starting configuration is not finite.
    """
    began = time.perf_counter()
    check_numbers(n, chains)
    seed = seeds.checked(seed)
    if not target.has_energy:
        return given_frames(target, n, seed)
    if chains is None:
        chains = _ISLANDS * max(1, min(_CHAINS, n // _DRAWS_PER_CHAIN) // _ISLANDS)
    rungs = default_temperatures(target) if temperatures is None else tuple(float(t) for t in temperatures)
    if not rungs or rungs[0] != 1.0 or any(hot <= cold for cold, hot in zip(rungs, rungs[1:], strict=False)):
        raise DataError(f"temperatures are multiples of the target's that ascend from 1, such as 1,1.5,2; got {rungs}.")
    report = progress or (lambda fraction, message: None)
    # With fewer draws of each chain R-hat could not tell anything.
    draws = max(-(-n // chains), _DRAWS_PER_CHAIN // 2)
    chunks = -(-draws // _CHUNK)
    chunk = -(-draws // chunks)
    key_run, key_symmetry = jax.random.split(seeds.key(seed))
    report(0.0, "compiling")
    with _Islands(target, rungs, chains, chunk, key=key_run) as islands:
        report(0.0, "warm-up")
        islands.warm_up(_WARM_UP_SWEEPS)
        report(0.05, "measuring the autocorrelation")
        pilot = _join([islands.produce(1) for _ in range(-(-_PILOT_SWEEPS // chunk))])
        times = {name: autocorrelation_time(values) for name, values in _observables(pilot).items()}
        thin = math.ceil(max(times.values()))
        parts: list[Draws] = []
        for number in range(chunks):
            report(0.1 + 0.9 * number / chunks, f"sampling, a frame every {thin} sweeps")
            parts.append(islands.produce(thin))
        step_sizes = islands.step_sizes()
    drawn = _join(parts)
    draws = len(drawn.energy)
    observables = _observables(drawn)
    positions = np.asarray(drawn.positions).reshape(-1, target.n_particles, target.dimension)[chain_by_chain(draws, chains, n)]
    positions = apply_symmetries(positions, target, generator=np.random.default_rng(np.asarray(jax.random.key_data(key_symmetry))))
    found = judged(observables, positions, target)
    frame_energies = found.pop("frame_energies")
    diagnostics = {
        **found,
        "acceptance": [float(a) for a in drawn.info.acceptance.mean(axis=0)],
        "step_sizes": [float(s) for s in step_sizes],
        "swap_rates": [float(s) for s in drawn.info.swap.mean(axis=0)],
        "temperatures": list(rungs),
        "autocorrelation_sweeps": times,
        "thin": thin,
        "chains": chains,
        "seconds": time.perf_counter() - began,
    }
    sampler, packages = "parallel tempering with Hamiltonian Monte Carlo (blackjax)", ("boltzflow", "jax", "blackjax", "numpy")
    origin = provenance(sampler, packages, jax.devices()[0].device_kind, diagnostics, seed=seed, n=n)
    dataset = Dataset(positions, target.fingerprint, target.units, origin, **molecule_folder.texts(target), energies=frame_energies)
    report(1.0, "done")
    return ReferenceResult(dataset, diagnostics)


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
        groups = island_count(chains, target.n_particles) if jax.default_backend() == "cpu" else 1
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

    def warm_up(self, sweeps: int) -> None:
        """Fits the step sizes, first fast and then averaged, while the chains forget their start."""
        for gain in (0.5, 0.1):
            outcome = self._all(thin=-(-sweeps // (2 * self._draws)), gain=gain)
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
    return {"energy": np.asarray(draws.energy, np.float64).T, "radius_of_gyration": radius_of_gyration(np.asarray(draws.positions)).T}
