"""Chains on islands: groups small enough for the cache, one after the other or side by side, each a compiled program of its own."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from boltzflow.errors import TargetError
from boltzflow.reference.effort import Effort
from boltzflow.reference.tempering import Draws, Ladder, LadderState, SweepInfo, advance
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

ISLANDS = 4
# Pairs of particles over the chains of an island, at one temperature: with more than this, LJ55 leaves the cache and takes 1.8 times as
# long for a chain.
_ISLAND_PAIRS = 50_000
_ACCEPTANCE = 0.85
_HMC_STEPS = 1
_SNAPSHOT = ("coordinates", "energy", "gradient", "log_steps", "key")
_COUNTED = "gradients_in_all"


class _Programs(NamedTuple):
    start: Callable[[PRNGKeyArray, int], LadderState]
    advance: Callable[..., tuple[LadderState, Float[jax.Array, " T"], Draws]]


@functools.lru_cache(maxsize=4)
def _programs(target: Target, temperatures: tuple[float, ...], effort: Effort) -> _Programs:
    """The compiled programs of a ladder, kept for the next call with the same target object."""
    ladder = Ladder(target, temperatures, leapfrog_steps=effort.leapfrog_steps, hmc_steps=_HMC_STEPS, turning=effort.turning)

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


class Islands:
    """Groups of chains that run in threads of their own, for XLA uses one core for a compiled loop.

    The number of groups does not depend on the number of cores, so neither do the results.

    Attributes:
        gradients: evaluations of the energy, each with its gradient, from the start on.
    """

    def __init__(
        self, target: Target, temperatures: tuple[float, ...], chains: int, draws: int, effort: Effort, *, key: PRNGKeyArray
    ) -> None:
        # Energies outside JAX have processes of their own, which large batches serve best.
        together = jax.default_backend() != "cpu" or is_expensive(target)
        groups = 1 if together else island_count(chains, target.n_particles)
        self._programs = _programs(target, temperatures, effort)
        self._draws = draws
        self._keys = list(jax.random.split(key, groups))
        self._states = [self._programs.start(self._next_key(group), chains // groups) for group in range(groups)]
        self._size = chains // groups * len(temperatures)
        self.gradients = groups * self._size
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An interrupted run does not wait for the programs that still run; the process does, when it ends.
        self._threads.shutdown(wait=kind is None, cancel_futures=True)

    def step_sizes(self) -> Float[np.ndarray, " T"]:
        """Step sizes of the temperatures, averaged over the groups."""
        return np.exp(np.mean([np.asarray(steps) for steps in self._log_steps], axis=0))

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that the next draws depend on: states of the chains, step sizes and keys."""
        arrays = {_COUNTED: np.asarray(self.gradients)}
        for group, (state, steps, key) in enumerate(zip(self._states, self._log_steps, self._keys, strict=True)):
            values = (*state, steps, jax.random.key_data(key))
            arrays.update({f"{name}{group}": np.asarray(value) for name, value in zip(_SNAPSHOT, values, strict=True)})
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes back to what a snapshot holds."""
        self.gradients = int(arrays[_COUNTED])
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
        """Draws of all chains with frozen step sizes, on the host, and the gradients of all of them."""
        parts = [part for _, _, part in self._all(thin=thin, gain=0.0)]
        positions, energy = (np.concatenate(each, axis=1) for each in zip(*[part[:2] for part in parts], strict=True))
        acceptance, swap, turn = (np.mean([getattr(part.info, name) for part in parts], axis=0) for name in ("acceptance", "swap", "turn"))
        gradients = self._size * np.sum([part.info.gradients for part in parts], axis=0)
        return Draws(positions, energy, SweepInfo(acceptance, swap, gradients, turn))  # pyright: ignore[reportArgumentType] (arrays of the host)

    def _all(self, *, thin: int, gain: float) -> list[tuple[LadderState, Float[jax.Array, " T"], Draws]]:
        outcome = list(self._threads.map(lambda group: self._advance(group, thin=thin, gain=gain), range(len(self._states))))
        self._states = [state for state, _, _ in outcome]
        self.gradients += sum(self._size * int(np.sum(draws.info.gradients)) for _, _, draws in outcome)
        return outcome

    def _advance(self, group: int, *, thin: int, gain: float) -> tuple[LadderState, Float[jax.Array, " T"], Draws]:
        arguments = (self._states[group], self._log_steps[group], thin, gain, self._next_key(group))
        return jax.block_until_ready(self._programs.advance(*arguments, self._draws))

    def _next_key(self, group: int) -> PRNGKeyArray:
        self._keys[group], key = jax.random.split(self._keys[group])
        return key


def island_count(chains: int, n_particles: int) -> int:
    """Number of islands among which the chains are divided evenly, each small enough for the cache where the chains allow it."""
    if chains % ISLANDS:
        return 1
    groups = ISLANDS
    while chains % (2 * groups) == 0 and chains // groups * n_particles**2 > _ISLAND_PAIRS:
        groups *= 2
    return groups


def join(parts: Sequence[Draws]) -> Draws:
    """Draws one after the other."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
