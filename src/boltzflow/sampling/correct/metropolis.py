"""Samples by chains over proposals of a flow, with local moves in between: streamed to disk block by block, and continued from there."""

import concurrent.futures
import dataclasses
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from boltzflow import seeds
from boltzflow.analysis import weights
from boltzflow.analysis.grouped import numbers
from boltzflow.counting import Evaluations
from boltzflow.errors import ConfigError, DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.status import Status
from boltzflow.progress import Progress, Wanted, told
from boltzflow.reference.diagnostics import autocorrelation_time, bulk_ess, split_r_hat
from boltzflow.runtime import available_cores
from boltzflow.sampling import devices as several
from boltzflow.sampling import sample_file
from boltzflow.sampling.correct import annealing, chains, common
from boltzflow.sampling.correct.spaces import Space
from boltzflow.sampling.generate import append_all
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import SamplesWriter
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

CHAINS = 64
BLOCK = 16
"""Steps of a block, after which the chains are on the disk; a kill loses no more."""

# Draws of the flow for each chain, of which one is chosen by the weights to begin with.
_POOL = 4
# Acceptance of local moves that the step size is fitted to, and how fast in each block of the warm-up.
_ACCEPTANCE = 0.8
_GAINS = (3.0, 2.0, 1.0, 0.5)
_APART = 2**31 - 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the chains do.

    Attributes:
        chains: their number C.
        moves: local moves between two proposals.
        leapfrog: steps of a move, each with a gradient.
        draws: further draws of the copies that log q is averaged over.
    """

    chains: int
    moves: int
    leapfrog: int
    draws: int

    def __str__(self) -> str:
        return (
            f"metropolis, {self.chains} chains, {self.moves} moves of {self.leapfrog} leapfrog steps between proposals, log q of "
            f"{self.draws + 1} draws, blocks of {BLOCK}"
        )

    @property
    def block(self) -> int:
        """Energies of a block."""
        return self.chains * (1 + BLOCK * (1 + self.moves * self.leapfrog))

    @property
    def preparation(self) -> int:
        """Energies before the first block that counts."""
        return self.chains * _POOL + self.block * (len(_GAINS) if self.moves else 1)

    def passes(self, space: Space) -> int:
        """Passes of the network in a block."""
        return self.chains * BLOCK * (space.evaluations_of_a_draw + (self.draws + 1 if self.moves else 0))


def metropolis(
    flow: AbstractFlow,
    target: Target,
    n: int | None = None,
    *,
    seed: int,
    energies: float | None = None,
    chains: int = CHAINS,
    moves: int | None = None,
    leapfrog: int = 4,
    draws: int | None = None,
    devices: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Wanted = None,
    model: str = "",
) -> Samples:
    """Samples of the target by independence Metropolis over proposals of the flow, with local moves in between; all weigh alike.

    The chains are exact in the limit of many steps, from any flow that covers the target. They lie block by block and within a block chain
    by chain; `Samples.group` tells the chain, and intervals follow from the scatter between the chains. log Z stays unknown.

    Args:
        flow: the flow.
        target: the target.
        n: number of samples, each a step of a chain; None: as many as `energies` allow.
        seed: of the chains.
        energies: evaluations of the energy, with or without gradient, that all may cost, the warm-up included; None: no limit.
        chains: chains side by side.
        moves: steps of Hamiltonian Monte Carlo between two proposals; None: 1, or none where the energy has no gradient.
        leapfrog: steps of each of them.
        draws: further draws of the copies that log q is averaged over; None: those of the flow.
        devices: local devices that take groups of chains in turn; None: all accelerators. The samples do not depend on it.
        out: file to stream to; what is written stays valid if the process is killed.
        resume: continue the file `out`.
        progress: told how many samples are done; None: a bar where somebody looks on (`progress.chosen`).
        model: name of the model, stored with the samples.

    Returns:
        n samples; `meta["diagnostics"]` is what `judged` says of them.

    Raises:
        ConfigError: if a number is out of its range, or the energies do not suffice for one block.
        DataError: if the target has no energy, or no draw of the flow has weight.
        TargetError: if moves need a gradient that the energy does not have.
        RunError: if `out` cannot be written, or holds other samples.
    """
    seed = seeds.checked(seed)
    common.require_energy(target)
    common.check_numbers(n, energies, chains=chains, leapfrog=leapfrog)
    moves = common.settled_moves(target, moves, 1)
    settings = Settings(chains, moves, leapfrog, common.settled_draws(flow, draws))
    space = Space(flow, target, geometric=False, draws=settings.draws, gradients=moves > 0)
    size = chains * BLOCK
    what = f"{BLOCK} steps of {chains} chains"
    blocks = common.affordable(n, energies, size, settings.preparation, settings.block, what)
    wanted = blocks * size if n is None else min(n, blocks * size)
    meta = {**common.meta_of(flow, target, model, str(settings), seed=seed), "normalised": False}
    with told(progress) as bar, _Chains(space, settings, meta, bar, several.local(devices), seed=seed) as runner:
        if out is None:
            began = time.perf_counter()
            parts = []
            for done, part in runner.blocks(0, blocks, None, wanted):
                parts.append(part)
                bar.update(min(wanted, done))
            samples = Samples.concatenate(parts)
            samples = dataclasses.replace(samples, meta={**samples.meta, "seconds": time.perf_counter() - began})
        else:
            samples = _streamed(runner, blocks, FilePath(out), resume, wanted)
    samples = samples.take(slice(0, wanted))
    return dataclasses.replace(samples, meta={**samples.meta, "diagnostics": judged(samples)})


def judged(samples: Samples) -> dict[str, float | int | None]:
    """What tells whether to trust chains.

    Args:
        samples: of `metropolis`.

    Returns:
        `acceptance` of the flow's proposals, `local_acceptance` of the moves, `longest_stay` (steps of a chain without a proposal that was
        taken), `autocorrelation_time` of the energy in steps, its split `r_hat` over the chains and its bulk effective sample size `ess`;
        None where there are too few steps to tell.

    Raises:
        DataError: if the samples are no chains.
    """
    if not str(samples.meta.get("correction")).startswith("metropolis"):
        raise DataError("these samples are no chains, of which alone there are diagnostics.")
    chain = numbers(samples.group)
    length = int(np.bincount(chain).min())
    u = np.stack([samples.u[chain == number][:length] for number in range(int(chain.max()) + 1)])
    tried = samples.meta.get("tried_moves", 0)
    found = {
        "acceptance": float(np.mean(samples.stay == 0)),
        "local_acceptance": samples.meta["accepted_moves"] / tried if tried else math.nan,
        "longest_stay": int(samples.stay.max()),
        "autocorrelation_time": autocorrelation_time(u),
        "r_hat": split_r_hat(u),
        "ess": bulk_ess(u),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


class _Tuned(NamedTuple):
    step: float
    inverse_mass: float


class _Chains:
    """The chains, in groups that are programs of their own; how many groups there are does not depend on the cores."""

    def __init__(self, space: Space, settings: Settings, meta: dict[str, Any], bar: Progress, places: list[Any], *, seed: int) -> None:
        self.space, self.settings, self.meta, self.bar = space, settings, meta, bar
        self._key = jax.random.fold_in(seeds.key(seed), _APART)
        # An energy outside JAX takes a large batch best.
        size = settings.chains if is_expensive(space.target) else min(space.flow.chunk_size, max(1, settings.chains // 4))
        self._groups = [slice(begin, begin + size) for begin in range(0, settings.chains, size)]
        self._double = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
        self._places = places
        side_by_side = len(places) if len(places) > 1 else available_cores()
        self._threads = concurrent.futures.ThreadPoolExecutor(1 if is_expensive(space.target) else side_by_side)

    def __enter__(self) -> "_Chains":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def blocks(self, first: int, stop: int, state: chains.State | None, n: int) -> Iterator[tuple[int, Samples]]:
        """Yields (samples done, block) from one block on; without a state after a warm-up, whose cost the first block carries."""
        spent = 0
        if state is None:
            state, spent = self._warmed_up(), self.settings.preparation
        tuned = _Tuned(**self.meta["schedule"])
        self.bar.start(n, "chains")
        size = self.settings.chains * BLOCK
        for number in range(first, stop):
            block, state = self._run(state, tuned, number)
            yield size * (number + 1), self._samples(block, spent)
            spent = 0

    def resumed(self, path: FilePath) -> chains.State:
        """The chains as a file holds them, whose schedule goes into the meta."""
        chain = sample_file.part_chain(path)
        last = sample_file.read(chain[-1][1] if chain else path)
        self.meta["schedule"] = dict(last.meta["schedule"])
        ends = last.take(slice(last.n - self.settings.chains * BLOCK, None)).take(slice(BLOCK - 1, None, BLOCK))
        return chains.State(*(jnp.asarray(part) for part in (ends.positions, ends.log_q.astype(ends.positions.dtype), ends.stay)))

    def _warmed_up(self) -> chains.State:
        self.bar.start(100, "warm-up of the chains")
        self.bar.update(0)
        count = self.settings.chains
        chunk = min(self.space.flow.chunk_size, count * _POOL)
        cloud = annealing.begin(self.space, count * _POOL, chunk, key=jax.random.fold_in(self._key, 0))
        cloud = annealing.reweighted(cloud, jnp.ones((), cloud.log_weight.dtype))
        log_weight = np.asarray(cloud.log_weight, np.float64)
        if not np.isfinite(log_weight).any():
            raise DataError(
                f"none of {log_weight.size} draws of the flow has weight, so that no chain can begin: all failed or have no finite energy; "
                "train the flow further, or look after the energy."
            )
        inverse_mass = float(annealing.masses_of(self.space, cloud, jnp.ones((), cloud.log_weight.dtype))[0])
        chosen = weights.resample_indices(log_weight, count, seed=0)
        walkers = jax.tree.map(lambda leaf: leaf[chosen], cloud.walkers)
        state = chains.State(self.space.positions(walkers.coordinates), walkers.parts.log_q, jnp.zeros(count, jnp.int32))
        step = 0.5 if self.settings.moves else 0.0
        gains = _GAINS if self.settings.moves else (0.0,)
        for number, gain in enumerate(gains):
            block, state = self._run(state, _Tuned(step, inverse_mass), -1 - number)
            step *= math.exp(gain * (float(block.acceptance) - _ACCEPTANCE))
            self.bar.update(round(100 * (number + 1) / len(gains)))
        self.meta["schedule"] = {"step": step, "inverse_mass": inverse_mass}
        return state._replace(stay=jnp.zeros(count, jnp.int32))

    def _run(self, state: chains.State, tuned: _Tuned, number: int) -> tuple[chains.Block, chains.State]:
        """A block of all chains, on the host, and the state after it."""
        # From 1 on, of which the first few are those of the warm-up.
        key = jax.random.fold_in(self._key, number + 1 + len(_GAINS))
        real = state.positions.dtype
        step, inverse_mass = (jnp.asarray(value, real) for value in tuned)

        def one(place: int) -> chains.Block:
            with jax.enable_x64(self._double), several.on(self._places, place):
                part = jax.tree.map(lambda leaf: leaf[self._groups[place]], state)
                options = {"steps": BLOCK, "moves": self.settings.moves, "leapfrog": self.settings.leapfrog}
                following = jax.random.fold_in(key, place)
                return jax.tree.map(np.asarray, chains.advance(self.space, part, step, inverse_mass, key=following, **options))

        # The first alone: threads would each compile the same.
        found = [one(0), *self._threads.map(one, range(1, len(self._groups)))]
        rate: Any = np.mean([part.acceptance for part in found])
        names = chains.Block._fields[:-1]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in found], axis=1) for name in names}
        block = chains.Block(**columns, acceptance=rate)
        return block, chains.State(*(jnp.asarray(leaf[-1]) for leaf in (block.positions, block.log_q, block.stay)))

    def _samples(self, block: chains.Block, spent: int) -> Samples:
        settings, size = self.settings, self.settings.chains * BLOCK
        # Chain by chain.
        positions, u, log_q, stay = (np.swapaxes(leaf, 0, 1).reshape(size, *leaf.shape[2:]) for leaf in block[:4])
        cost = settings.block + spent
        tried = size * settings.moves
        groups = common.groups_from(self.meta, 0, settings.chains)
        return Samples(
            positions=positions,
            log_q=log_q,
            u=u,
            status=np.full(size, int(Status.SOLVED)),
            nfe=np.full(size, settings.passes(self.space) // size),
            path_length=np.full(size, np.nan),
            log_weight=np.zeros(size),
            group=np.repeat(groups, BLOCK),
            stay=stay,
            meta={
                **self.meta,
                **(Evaluations(gradients=cost) if settings.moves else Evaluations(energies=cost)).as_meta(),
                "density_evaluations": settings.passes(self.space) * (1 if not spent else 1 + len(_GAINS)),
                "accepted_moves": float(block.acceptance) * tried,
                "tried_moves": tried,
            },
        )


def _streamed(runner: _Chains, blocks: int, out: FilePath, resume: bool, n: int) -> Samples:
    size = runner.settings.chains * BLOCK
    with SamplesWriter(out, runner.meta, resume=resume) as writer:
        if writer.n_written % size:
            raise ConfigError(f"{out} holds {writer.n_written} samples, which are no whole blocks of these chains; choose another file.")
        state = runner.resumed(out) if writer.n_written else None
        first = writer.n_written // size

        def parts() -> Iterator[tuple[int, Samples]]:
            for done, part in runner.blocks(first, blocks, state, n):
                # Known since the warm-up.
                writer.meta["schedule"] = runner.meta["schedule"]
                yield done, part

        if first < blocks:
            append_all(writer, parts(), n, lambda done: runner.bar.update(min(n, done)))
    return Samples.load(out, runner.space.target)
