"""Samples by sequential Monte Carlo: populations that are independent of one another, streamed to disk one by one."""

import dataclasses
import functools
import json
import os
import time
from pathlib import Path as FilePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from boltzflow import seeds
from boltzflow.counting import Evaluations
from boltzflow.errors import ConfigError, DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.status import Status
from boltzflow.progress import Progress, Wanted, told
from boltzflow.sampling import devices as several
from boltzflow.sampling import sample_file, writer
from boltzflow.sampling.correct import annealing, common
from boltzflow.sampling.correct.annealing import Choice
from boltzflow.sampling.correct.spaces import Space
from boltzflow.sampling.generate import in_chunks, streamed
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target

POPULATION = 256
"""Walkers of a population. Its mean weight is right for any number; resampling needs some to choose from."""

# More temperatures than this are a sign that the flow is not of this target.
_MOST_STAGES = 300
# Dimensionless, because masses are those of the mean curvature; the stiffest directions allow less.
_FIRST_STEP = 0.5
# Turns of moves by which the pilot fits the step size, at the first temperature and at each of the others.
_FIRST_TURNS, _TURNS = 4, 1
# Any share of the weights will do: to the target in one step.
_AT_ONCE = 1e-30


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a population is annealed.

    Attributes:
        path: "geometric", or "direct": weights at once, then moves at the target.
        population: walkers P.
        moves: of each walker at each b.
        leapfrog: steps of a move, each with a gradient.
        share: conditional effective sample size that each step of b keeps.
        draws: further draws of the copies that log q of a draw is averaged over, on the direct path.
    """

    path: common.Path
    population: int
    moves: int
    leapfrog: int
    share: float
    draws: int

    def __str__(self) -> str:
        how = f"conditional ESS {self.share:g}" if self.path == "geometric" else f"log q of {self.draws + 1} draws"
        return (
            f"smc, {self.path} path, {how}, populations of {self.population}, {self.moves} moves of {self.leapfrog} leapfrog steps at "
            "each temperature"
        )

    def cost(self, stages: int) -> int:
        """Energies of a population."""
        return self.population * (1 + stages * self.moves * self.leapfrog)


def smc(
    flow: AbstractFlow,
    target: Target,
    n: int | None = None,
    *,
    seed: int,
    energies: float | None = None,
    path: common.Path | None = None,
    population: int = POPULATION,
    moves: int | None = None,
    leapfrog: int = 4,
    share: float = 0.6,
    draws: int | None = None,
    devices: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Wanted = None,
    model: str = "",
) -> Samples:
    """Samples of the target by annealing populations of the flow, with log-weights of their own; log Z has no bias.

    A pilot population, which is left out, chooses the temperatures, by a bound on the effective sample size of each increment, and fits
    the step sizes. Samples of one population depend on one another (`Samples.group`), populations do not.

    Args:
        flow: the flow.
        target: the target.
        n: number of samples; None: as many as `energies` allow.
        seed: population i depends on the seed, the settings and i alone.
        energies: evaluations of the energy, with or without gradient, that all may cost, the pilot included; None: no limit.
        path: "geometric" follows q^(1-b) p^b, with the gradient of log q, of an augmented flow in the joint space of positions and
            copies; "direct" weighs the draws at once, an augmented flow's by log q averaged over copies, and moves them at the target.
            None: direct, which was the better one for the same energies wherever both were measured (docs/reweighting.md).
        population: walkers of a population.
        moves: steps of Hamiltonian Monte Carlo of each walker at each temperature; None: 1, or 2 on the direct path, or none where the
            energy has no gradient.
        leapfrog: steps of each of them.
        share: effective sample size of the increments that chooses the temperatures, between 0 and 1.
        draws: further draws of the copies that log q is averaged over on the direct path; None: those of the flow.
        devices: local devices that take the populations in turn; None: all accelerators. The samples do not depend on it.
        out: file to stream to; what is written stays valid if the process is killed.
        resume: continue the file `out`.
        progress: told how many samples are done; None: a bar where somebody looks on (`progress.chosen`).
        model: name of the model, stored with the samples.

    Raises:
        ConfigError: if a number is out of its range, or the energies do not suffice for one population.
        DataError: if the target has no energy, or no walker of the pilot gets to it.
        TargetError: if moves need a gradient that the energy does not have.
        RunError: if `out` cannot be written, or holds other samples.
    """
    seed = seeds.checked(seed)
    common.require_energy(target)
    common.check_numbers(n, energies, population=population, leapfrog=leapfrog)
    settings = _settings(flow, target, path, population, moves, leapfrog, share, draws)
    space = Space(
        flow,
        target,
        geometric=settings.path == "geometric",
        draws=settings.draws,
        gradients=settings.moves > 0,
    )
    meta = common.meta_of(flow, target, model, str(settings), seed=seed)
    least = settings.cost(_FIRST_TURNS) if settings.moves else 0
    common.affordable(n, energies, population, least, settings.cost(1), f"a population of {population}")
    places = several.local(devices)
    file = None if out is None else FilePath(out)
    with told(progress) as bar:
        schedule = None if file is None or not resume else _kept(file, meta)
        schedule = schedule or _pilot(space, settings, bar, seed=seed)
        meta["schedule"] = schedule
        before, each = schedule["energies"], settings.cost(len(schedule["b"]))
        many = common.affordable(n, energies, population, before, each, f"a population of {population}")
        wanted = many * population if n is None else min(n, many * population)
        return _drawn(space, settings, meta, wanted, places, file, resume, bar, seed=seed)


def _settings(
    flow: AbstractFlow,
    target: Target,
    path: common.Path | None,
    population: int,
    moves: int | None,
    leapfrog: int,
    share: float,
    draws: int | None,
) -> Settings:
    if not 0.0 < share < 1.0:
        raise ConfigError(f"the effective sample size of an increment must lie between 0 and 1, got share={share:g}.")
    if path not in (None, "geometric", "direct"):
        raise ConfigError(f"the path must be 'geometric' or 'direct', got {path!r}.")
    chosen = path or "direct"
    moves = common.settled_moves(target, moves, 1 if chosen == "geometric" else 2)
    if chosen == "geometric" and moves == 0:
        raise ConfigError("the geometric path needs moves at each temperature, and an energy with gradient; choose the direct path.")
    if chosen == "geometric" and flow.settings["divergence"] not in ("none", "exact"):
        raise ConfigError("the geometric path needs an exact log q; choose flow.solver.divergence=exact, or the direct path.")
    if chosen == "geometric" and draws:
        raise ConfigError("on the geometric path copies move with the positions and are not averaged over; leave draws out.")
    averaged = 0 if chosen == "geometric" else common.settled_draws(flow, draws)
    return Settings(chosen, population, moves, leapfrog, share, averaged)


def _kept(file: FilePath, meta: dict[str, Any]) -> dict[str, Any] | None:
    """The schedule in a file that is to be continued, as it was made for the first of its samples; None if there is none yet.

    Raises:
        RunError: if the file holds other samples; told before the pilot and not after it.
    """
    chain = sample_file.part_chain(file)
    if not file.is_file() and not chain:
        return None
    stored = sample_file.inspect(file if file.is_file() else chain[0][1])[2]
    writer.check_identity(file, stored, meta)
    return stored.get("schedule")


def _keys(seed: int, number: int) -> PRNGKeyArray:
    # Number 0 is the pilot's; apart from the keys of plain samples.
    return jax.random.fold_in(jax.random.fold_in(seeds.key(seed), 2**31 - 1), number)


def _pilot(space: Space, settings: Settings, bar: Progress, *, seed: int) -> dict[str, Any]:
    """The temperatures and step sizes that a population chooses, as JSON knows them, and what that cost."""
    key = _keys(seed, 0)
    size, chunk = settings.population, min(space.flow.chunk_size, settings.population)
    if not settings.moves:
        return {"b": [1.0], "step": [0.0], "masses": [[1.0, 1.0]], "energies": 0, "density_evaluations": 0}
    bar.start(100, "choosing temperatures")
    bar.update(0)
    cloud = annealing.begin(space, size, chunk, key=jax.random.fold_in(key, 0))
    _require_living(int(jnp.sum(jnp.isfinite(cloud.log_weight))), size, "drawn")
    real = cloud.log_weight.dtype
    share = jnp.full((), settings.share if settings.path == "geometric" else _AT_ONCE, real)
    choice, rate = Choice(jnp.zeros((), real), jnp.full((), _FIRST_STEP, real), jnp.ones(2, real)), jnp.zeros((), real)
    found: dict[str, list[Any]] = {"b": [], "step": [], "masses": [], "acceptance": []}
    calls = 0
    while float(choice.b) < 1.0:
        for turn in range(_TURNS if calls else _FIRST_TURNS):
            # The first turn chooses b, those after it stay there and fit the step size.
            kept, options = share if turn == 0 else jnp.zeros_like(share), {"moves": settings.moves, "leapfrog": settings.leapfrog}
            following = jax.random.fold_in(key, 1 + calls)
            cloud, outcome = annealing.stage(space, cloud, choice.b, choice, kept, key=following, **options, chunk=chunk)
            choice, rate, calls = outcome.choice, outcome.acceptance, calls + 1
            _require_living(int(outcome.living), size, f"at b = {float(choice.b):.3g}")
        for name, value in (*choice._asdict().items(), ("acceptance", rate)):
            found[name].append(np.asarray(value).astype(float).tolist())
        bar.update(round(100 * float(choice.b)), temperatures=len(found["b"]))
        if len(found["b"]) > _MOST_STAGES:
            raise DataError(
                f"after {_MOST_STAGES} temperatures the pilot has come to b = {float(choice.b):.2g} only: the flow is too far from the "
                "target; train it further, or lower share."
            )
    cost = settings.cost(calls)
    passes = cost if settings.path == "geometric" else 0
    return json.loads(json.dumps({**found, "energies": cost, "density_evaluations": passes + size * space.evaluations_of_a_draw}))


def _require_living(living: int, size: int, where: str) -> None:
    if living < 2:
        raise DataError(
            f"only {living} of {size} walkers of the pilot have weight {where}: all others failed, or have no finite energy; train the "
            "flow further, or look after the energy."
        )


def _drawn(
    space: Space,
    settings: Settings,
    meta: dict[str, Any],
    n: int,
    places: list[Any],
    file: FilePath | None,
    resume: bool,
    bar: Progress,
    *,
    seed: int,
) -> Samples:
    """N samples, from memory or by way of the file."""
    made = [np.asarray(meta["schedule"][name]) for name in Choice._fields]
    stages = [Choice(*(jnp.asarray(part, jnp.zeros(()).dtype) for part in parts)) for parts in zip(*made, strict=True)]
    size = settings.population

    def work(begin: int, count: int) -> Samples:
        return _population(space, settings, stages, meta, begin // count, seed=seed)

    populations = functools.partial(in_chunks, work, chunk=size, places=places, workers=len(places) if len(places) > 1 else None)
    began = time.perf_counter()
    bar.start(n, "populations")
    if file is not None:
        return streamed(populations, n, file, meta, resume, bar, space.target)
    parts = []
    for done, part in populations(0, n):
        parts.append(part)
        bar.update(done)
    samples = Samples.concatenate(parts).take(slice(0, n))
    return dataclasses.replace(samples, meta={**samples.meta, "seconds": time.perf_counter() - began})


def _population(space: Space, settings: Settings, stages: list[Choice], meta: dict[str, Any], number: int, *, seed: int) -> Samples:
    size, count = settings.population, len(stages)
    chunk = min(space.flow.chunk_size, size)
    key = _keys(seed, number + 1)
    options = {"size": size, "moves": settings.moves, "leapfrog": settings.leapfrog, "chunk": chunk}
    found, outcome = annealing.anneal(space, stages, **options, key=key)
    cost, pilot = settings.cost(count), meta["schedule"] if number == 0 else {"energies": 0, "density_evaluations": 0}
    passes = (cost if settings.path == "geometric" else 0) + size * space.evaluations_of_a_draw
    # A draw without moves needs its energy alone.
    spent = Evaluations(gradients=cost) if settings.moves else Evaluations(energies=cost)
    spent += Evaluations(gradients=pilot["energies"])
    tried = size * count * settings.moves
    return Samples(
        positions=np.asarray(found.positions),
        log_q=np.asarray(found.log_q, np.float64),
        u=np.asarray(found.u, np.float64),
        status=np.full(size, int(Status.SOLVED)),
        nfe=np.full(size, passes // size),
        path_length=np.full(size, np.nan),
        log_weight=np.asarray(found.log_weight, np.float64),
        group=np.repeat(common.groups_from(meta, number, 1), size),
        meta={
            **meta,
            **spent.as_meta(),
            "density_evaluations": passes + pilot["density_evaluations"],
            "accepted_moves": float(np.mean([np.asarray(part.acceptance) for part in outcome])) * tried,
            "tried_moves": tried,
        },
    )
