"""Makes reference data: the schedule around the tempering sampler, and what it reports."""

import dataclasses
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from boltzflow import seeds, shards
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, DataError, RunError, RunInterrupted
from boltzflow.progress import FractionOf, Wanted, duration, told
from boltzflow.reference import effort, journal
from boltzflow.reference.diagnostics import autocorrelation_time
from boltzflow.reference.drawn import observed, packed, slow_ones, unpacked
from boltzflow.reference.effort import Effort
from boltzflow.reference.islands import ISLANDS, Islands, join
from boltzflow.reference.result import (
    R_HAT_LIMIT,
    ReferenceResult,
    apply_symmetries,
    chain_by_chain,
    check_numbers,
    convergence,
    given_frames,
    judged,
    provenance,
)
from boltzflow.reference.tempering import Draws
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target

SAMPLER = "parallel tempering with Hamiltonian Monte Carlo (blackjax)"

_DRAWS_PER_CHAIN = 32
# Frames for each effective one at most, if only effective ones are asked for.
_PATIENCE = 50
# Hottest temperature of the default ladder in units of the target's: hot enough to cross the barriers of that target.
_HOTTEST = {"double_well": 4.0, "lennard_jones": 1.5}
# Shares of the work, for the bar.
_WARMED, _MEASURED = 0.05, 0.1


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
    n: int | None = None,
    *,
    effective: int | None = None,
    seed: int = 0,
    temperatures: Sequence[float] | None = None,
    chains: int | None = None,
    thin: int | None = None,
    progress: Wanted = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    shard: shards.Shard | None = None,
) -> ReferenceResult:
    """Draws decorrelated configurations by parallel tempering with Hamiltonian Monte Carlo.

    Where a molecule has bonds that turn, one end of it is turned by any angle, too (`chemistry.turning`): that crosses the barriers of
    torsions.

    Chains of ladders run side by side, compiled as a whole; of an energy outside JAX, which is expensive, few chains with a short warm-up
    and short trajectories, fitted to the time that the energy takes (`effort`), so that the first frames come soon. A warm-up fits the step
    size of each temperature and is thrown away; a pilot run with frozen step sizes measures the autocorrelation of energy and radius of
    gyration; then every chain gives a frame each time that this many sweeps have passed. Each frame is at last moved by a random symmetry
    of the target (rotation, reflection where that is one, permutation within the classes), which leaves the density as it is.

    The chains are judged by energy, radius of gyration, and the torsions about bonds that turn.

    Frames are ordered chain by chain. A density without energy has its frames already: n of them (all if there are fewer) are returned in
    random order.

    Args:
        target: the target.
        n: number of frames; with `effective` the most that are drawn.
        effective: effective number of frames to reach: sampling ends when that of each observable is as large and R-hat is at most 1.05.
            Without n, 50 times as many frames are drawn at most.
        seed: the same seed on the same machine gives the same frames; of an energy outside JAX if it takes the same time, too.
        temperatures: ladder as multiples of the target's temperature, ascending from 1; None: `default_temperatures`.
        chains: ladders side by side; None: up to 256, of a molecule 64, with about 32 frames or more of each, or 4 of an
            energy outside JAX.
        thin: sweeps between two frames of a chain at most; None: as many as the slowest of the observables asks for. With fewer, frames
            are correlated, which `n_effective` tells.
        progress: told how far it is; None: a bar where somebody looks on (`progress.chosen`).
        out: data file that is written at the end. What is done on the way to it lies in a folder beside it, so that a run that was
            killed goes on with `resume`, bit-identical to one that was not; the folder goes when the file is there. Ctrl-C writes the
            frames that there are into a file NAME.partial.h5 beside it.
        resume: continue the interrupted run towards `out`, if there is one.
        shard: (k, K): only the k-th of K parts of the n frames, of chains and a seed of its own; `reference.joining` joins them.

    Returns:
        Frames and diagnostics. A failed convergence is told in `diagnostics["converged"]` and `sentence()`, not raised.

    Raises:
        DataError: if n, effective, chains or thin is not positive, neither n nor effective is given, or the temperatures do not ascend
            from 1.
        RunError: if `out` is there already or cannot be written, is being made by another process, or was begun with other arguments.
        RunInterrupted: by Ctrl-C, if there is an `out`; says what is kept and how to go on.
        TargetError: if the energy of a starting configuration is not finite, or lacks a symmetry that the target states.
    """
    check_numbers(n, chains, effective)
    if thin is not None and thin < 1:
        raise DataError(f"sweeps between two frames (thin) are at least 1, got {thin}.")
    seed, origin = seeds.checked(seed), {}
    if shard is not None:
        if n is None or effective is not None or not target.has_energy:
            raise ConfigError("only a number of frames (n, -n) of a target with an energy can be divided into shards; give it alone.")
        begin, end = shards.bounds(n, shard)
        origin = shards.flat(n, shard, seed=seed)
        n, seed = end - begin, shards.seed_of(shard, seed=seed)
    if not target.has_energy:
        if n is None:
            raise DataError(f"target {target.name!r} is known by its frames, which are independent; give their number n.")
        result = given_frames(target, n, seed=seed)
        if out is not None:
            result.dataset.save_or_rescue(Path(out))
        return result
    target.check_energy()
    path = None if out is None else Path(out)
    if path is not None and path.exists():
        raise RunError(f"{path} exists already; choose another file, or delete it to make the frames again.")
    rungs = default_temperatures(target) if temperatures is None else tuple(float(t) for t in temperatures)
    if not rungs or rungs[0] != 1.0 or any(hot <= cold for cold, hot in zip(rungs, rungs[1:], strict=False)):
        raise DataError(f"temperatures are multiples of the target's that ascend from 1, such as 1,1.5,2; got {rungs}.")
    with told(progress) as bar:
        report = FractionOf(bar, f"reference frames of {target.name}")
        known = journal.stated(path).get("effort") if path is not None and resume else None
        report(0.0, "measuring what an energy costs")
        spent = effort.of_name(known, target) if known is not None else effort.fitting(target, len(rungs))
        wanted = n if n is not None else _PATIENCE * (effective or 0)
        if thin is not None:
            spent = dataclasses.replace(spent, most_thin=thin)
        side_by_side = chains or _usual_chains(spent, effective or wanted)
        plan = _Plan(target, wanted, effective, seed, rungs, side_by_side, spent, report, origin)
        if path is None:
            return _finished(plan, _run(plan, None))
        with journal.opened(path, plan.identity, resume=resume) as steps:
            try:
                result = _finished(plan, _run(plan, steps))
            except KeyboardInterrupt as error:
                raise RunInterrupted(_kept(plan, steps, path), signal.SIGINT) from error
            result.dataset.save_or_rescue(path)
            partial_of(path).unlink(missing_ok=True)
            journal.remove(path)
    return result


def partial_of(path: Path) -> Path:
    """Where the frames of an interrupted run towards a file are."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _usual_chains(spent: effort.Effort, frames: int) -> int:
    return ISLANDS * max(1, min(spent.chains, frames // _DRAWS_PER_CHAIN) // ISLANDS) if spent.share_chains else spent.chains


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is to be done; the result depends on nothing else.

    Attributes:
        target: the target.
        n: frames; the most of them if an effective number is to be reached.
        effective: effective number of frames to reach, if that is what is asked for.
        seed: seed.
        rungs: temperatures as multiples of the target's.
        chains: ladders side by side.
        effort: how much is spent.
        report: told the fraction done and what is being done.
        origin: what the frames say of themselves beside all that.
    """

    target: Target
    n: int
    effective: int | None
    seed: int
    rungs: tuple[float, ...]
    chains: int
    effort: Effort
    report: FractionOf
    origin: Mapping[str, int]

    @property
    def draws(self) -> int:
        """Frames of each chain; with fewer R-hat could not tell anything."""
        return max(-(-self.n // self.chains), _DRAWS_PER_CHAIN // 2)

    @property
    def chunks(self) -> int:
        """Calls of the compiled program, after each of which the state can be kept."""
        return -(-self.draws // self.effort.chunk)

    @property
    def chunk(self) -> int:
        """Draws of a call."""
        return -(-self.draws // self.chunks)

    @property
    def pilots(self) -> int:
        """Calls that measure the autocorrelation."""
        return -(-self.effort.pilot // self.chunk)

    @property
    def identity(self) -> dict[str, Any]:
        """What an interrupted run must agree on to be continued."""
        return {
            "target": self.target.fingerprint,
            "number of frames": self.n,
            "effective number of frames": self.effective,
            "seed": self.seed,
            "temperatures": list(self.rungs),
            "chains": self.chains,
            "effort": self.effort.name,
            "sweeps between frames at most": self.effort.most_thin,
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
    pilots, spent = plan.pilots, plan.effort
    found = [steps.read(number) for number in range(steps.done)] if steps is not None else []
    drawn = [unpacked(arrays) for arrays in found[1:]]
    pace = None
    plan.report(0.0, f"starting and compiling {plan.chains} chains at {len(plan.rungs)} temperatures")
    with Islands(plan.target, plan.rungs, plan.chains, plan.chunk, spent, key=key_run) as islands:
        if found:
            islands.restore(found[-1])
            before = float(found[-1]["seconds"])

        def keep(draws: Draws | None) -> None:
            if steps is not None:
                seconds = np.asarray(before + time.perf_counter() - began)
                steps.write({**islands.snapshot(), **(packed(draws) if draws is not None else {}), "seconds": seconds})

        if not found:
            for number, (sweeps, gain) in enumerate(spent.warm_up):
                plan.report(_WARMED * number / len(spent.warm_up), f"warm-up, part {number + 1} of {len(spent.warm_up)}")
                islands.warm_up(sweeps, gain)
            keep(None)
        while len(drawn) < pilots:
            plan.report(_WARMED + (_MEASURED - _WARMED) * len(drawn) / pilots, "measuring the autocorrelation")
            mark = time.perf_counter()
            drawn.append(islands.produce(1))
            pace = time.perf_counter() - mark
            keep(drawn[-1])
        times = {name: autocorrelation_time(values) for name, values in slow_ones(join(drawn[:pilots])).items()}
        thin = math.ceil(max(times.values()))
        if spent.most_thin is not None:
            thin = min(thin, spent.most_thin)
        watch = _Watch(plan, thin, pace)
        for part in drawn[pilots:]:
            watch.see(part)
        while len(drawn) < pilots + plan.chunks and not watch.enough():
            watch.report()
            drawn.append(islands.produce(thin))
            keep(drawn[-1])
            watch.see(drawn[-1])
        step_sizes, gradients = islands.step_sizes(), islands.gradients
    return _Drawn(join(drawn[pilots:]), times, thin, step_sizes, before + time.perf_counter() - began, gradients)


class _Watch:
    """Looks on while frames are drawn: how many there are, what they are worth, and when it is enough."""

    def __init__(self, plan: _Plan, thin: int, pace: float | None) -> None:
        self._plan, self._thin, self._done = plan, thin, 0
        self._seconds = None if pace is None else pace * thin * plan.chunks
        self._seen: list[dict[str, Float[np.ndarray, "C K"]]] = []
        self._r_hat, self._effective = math.nan, 0.0

    def see(self, part: Draws) -> None:
        """Takes note of a chunk."""
        self._done += 1
        if self._plan.effective is None:
            return
        self._seen.append(observed(part, self._plan.target))
        joined = {name: np.concatenate([seen[name] for seen in self._seen], axis=1) for name in self._seen[0]}
        r_hat, ess = convergence(joined)
        # What is not a number, as of too few draws, stays so.
        self._r_hat, self._effective = float(np.max(list(r_hat.values()))), float(np.min(list(ess.values())))

    def enough(self) -> bool:
        """Whether the effective number is reached by chains that agree; what is not a number, of few draws, is not enough."""
        return self._plan.effective is not None and self._effective >= self._plan.effective and self._r_hat <= R_HAT_LIMIT

    def report(self) -> None:
        """Tells how far it is."""
        plan = self._plan
        frames = f"{min(self._done * plan.chunk * plan.chains, plan.n)} frames, one every {self._thin} sweeps"
        if plan.effective is None:
            about = "" if self._seconds is None else f", about {duration(self._seconds)} in all"
            share, words = self._done / plan.chunks, f"{frames}{about}"
        else:
            known = math.isfinite(self._r_hat) and math.isfinite(self._effective)
            share = min(self._effective / plan.effective, 0.99) if known else 0.0
            words = f"{frames}, worth {self._effective:.0f} of {plan.effective}, R-hat {self._r_hat:.3f}" if known else frames
        plan.report(_MEASURED + (1.0 - _MEASURED) * share, f"sampling, {words}")


def _kept(plan: _Plan, steps: journal.Journal, path: Path) -> str:
    """Writes the frames of an interrupted run, and says what is kept."""
    parts = [unpacked(steps.read(number)) for number in range(1 + plan.pilots, steps.done)]
    go_on = f"continue with resume (--resume): what is done is in {journal.folder_of(path)}"
    if not steps.done:
        return "interrupted in the warm-up, of which nothing is kept; begin again with resume (--resume)."
    if not parts:
        return f"interrupted before the first frames; {go_on}."
    positions = _frames(plan, join(parts))
    energies = np.asarray(join(parts).energy, np.float64).ravel()[chain_by_chain(len(join(parts).energy), plan.chains, plan.n)]
    origin: dict[str, str | float | int] = {"sampler": SAMPLER, "seed": plan.seed, "n": len(positions), "interrupted": True}
    texts, target = molecule_folder.texts(plan.target), plan.target
    partial = partial_of(path)
    try:
        Dataset(positions, target.fingerprint, target.units, origin, **texts, energies=energies).save(partial, overwrite=True)
    except (OSError, DataError) as error:
        return f"interrupted, and the frames so far cannot be written ({error}); {go_on}."
    return f"interrupted; the {len(positions)} frames that there are, not yet judged, are in {partial}; {go_on}."


def _frames(plan: _Plan, draws: Draws) -> Float[np.ndarray, "n N D"]:
    """The draws chain by chain, each moved by a symmetry."""
    target = plan.target
    key = jax.random.split(seeds.key(plan.seed))[1]
    chosen = chain_by_chain(len(draws.energy), plan.chains, plan.n)
    positions = np.asarray(draws.positions).reshape(-1, target.n_particles, target.dimension)[chosen]
    return apply_symmetries(positions, target, generator=np.random.default_rng(np.asarray(jax.random.key_data(key))))


def _finished(plan: _Plan, drawn: _Drawn) -> ReferenceResult:
    """Frames, each moved by a symmetry, and what can be said of them."""
    target = plan.target
    seen, info = observed(drawn.draws, target), drawn.draws.info
    plan.report(1.0, "computing energies of the frames for the virial check")
    positions = _frames(plan, drawn.draws)
    found = judged(seen, positions, target)
    frame_energies, evaluations = found.pop("frame_energies"), found.pop("evaluations") + Evaluations(gradients=drawn.gradients)
    evaluations += Evaluations(gradients=effort.spent_on_measuring(plan.target, len(plan.rungs)))
    diagnostics = {
        **found,
        "acceptance": [float(a) for a in info.acceptance.mean(axis=0)],
        "step_sizes": [float(s) for s in drawn.step_sizes],
        "swap_rates": [float(s) for s in info.swap.mean(axis=0)],
        **({"turn_acceptance": [float(a) for a in info.turn.mean(axis=0)]} if np.any(info.turn) else {}),
        "temperatures": list(plan.rungs),
        "autocorrelation_sweeps": drawn.times,
        "thin": drawn.thin,
        "chains": plan.chains,
        "seconds": drawn.seconds,
        **({} if plan.effective is None else {"effective_wanted": plan.effective}),
        **evaluations.as_meta(),
    }
    packages = ("boltzflow", "jax", "blackjax", "numpy")
    origin = provenance(SAMPLER, packages, jax.devices()[0].device_kind, diagnostics, seed=plan.seed, n=len(positions))
    origin |= plan.origin
    dataset = Dataset(positions, target.fingerprint, target.units, origin, **molecule_folder.texts(target), energies=frame_energies)
    plan.report(1.0, "done")
    return ReferenceResult(dataset, diagnostics)
