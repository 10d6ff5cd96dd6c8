"""The figures of a model: NLL, ESS both ways, log Z, path length, NFE and times, each with n and an interval."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from boltzflow import reference, seeds
from boltzflow.analysis import Estimate, bar, correlation, metrics, trimmed, weights
from boltzflow.analysis.tica import Tica
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.evaluation.frames import (
    Judged,
    count_figures,
    draw_figures,
    forward_figures,
    judged,
    likelihood_figures,
    mean_square_root,
    solver_differences,
)
from boltzflow.evaluation.scorecard import scorecard, slow_model
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.identity import identity
from boltzflow.flows.images import log_images
from boltzflow.flows.status import Status
from boltzflow.models import remote
from boltzflow.models.model import Model
from boltzflow.models.versions import versions
from boltzflow.progress import Progress, Wanted, told
from boltzflow.sampling.averaging import averaged
from boltzflow.sampling.enantiomers import check_samples
from boltzflow.sampling.generate import draw, generate, sample_keys
from boltzflow.sampling.ratios import Ratios
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive

REFERENCE_SEED = 1_000_003
"""Seed of the reference frames made for the evaluation of a shipped model; no preset trains on them."""


_TIMED = 512


def evaluate(
    model: Model,
    n: int,
    *,
    seed: int,
    frames: Dataset | None = None,
    samples: Samples | None = None,
    dynamics: Dataset | Tica | None = None,
    ratios: Ratios | None = None,
    executor: Any = None,
    progress: Wanted = None,
) -> dict[str, Any]:
    """Measures a model.

    Args:
        model: the trained flow with its target.
        n: samples to draw, and the most frames to use.
        seed: seed of samples and bootstrap.
        frames: held-out frames of the target; None takes the validation frames of the model's run, or makes reference frames anew.
        samples: samples of this model, if they have been drawn already; else they are drawn here.
        dynamics: frames of molecular dynamics of the target, or the `Tica` that was fitted on them, for `tica_w2` of the scorecard.
        ratios: gives the densities of the frames, if they have been computed already (`evaluation.shares`).
        executor: whose workers draw the samples and compute the densities of the frames, as `blackbox.farm.of` takes it; the figures are
            the same but for times. None: this process.
        progress: told what is being done; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        The keys of `boltzflow evaluate --json`: estimates as `Estimate.as_dict` makes them, with 95 % intervals; path lengths in the
        target's units; None where a thing does not apply. "solver_error" is the root mean square error of log q by the solver, in nats.
        "weights", "identity" and the settings tell of which flow they are (`flows.identity`). The
        figures of `scorecard` are {"raw": ..., "reweighted": ...}; "eubo" is the mean of -u - log q over the frames, which is above log Z
        by the divergence of the flow from the target.

    Raises:
        DataError: if n is not positive, or the frames, the samples or the dynamics belong to another target, or the samples to
            another flow, or the dynamics is not in the order of time.
        ConfigError: if the executor is none, or the model is at another temperature than its file.
        RunError: if the workers are gone or not fit.
    """
    if n < 1:
        raise DataError(f"the number of samples must be positive, got {n}.")
    seed = seeds.checked(seed)
    # Before the work: dynamics that cannot be used is refused at once.
    slow = slow_model(dynamics, model.target)
    workers = None if executor is None else remote.workers(model, executor, seed=seed)
    with told(progress) as bar:
        return _figures(model, n, seed=seed, frames=frames, samples=samples, slow=slow, ratios=ratios, workers=workers, progress=bar)


def _figures(
    model: Model,
    n: int,
    *,
    seed: int,
    frames: Dataset | None,
    samples: Samples | None,
    slow: Tica | None,
    ratios: Ratios | None,
    workers: remote.Workers | None,
    progress: Progress,
) -> dict[str, Any]:
    """As `evaluate`."""
    flow, target = model.flow, model.target
    chunk = min(flow.chunk_size, n)
    if samples is not None:
        check_samples(samples, flow, target)
    if samples is None and workers is not None:
        samples = generate(flow, target, n, seed=seed, progress=progress, model=model.name, remote=workers.samples)
    copies = None if workers is None else workers.ratios
    # Whoever has drawn the samples has compiled already.
    seconds_compile = None if samples is not None else max(0.0, _seconds_of_chunk(model, chunk) - _seconds_of_chunk(model, chunk))
    if samples is None:
        samples = timed = generate(flow, target, n, seed=seed, progress=progress, model=model.name)
    elif is_expensive(target) and "seconds" in samples.meta:
        # Compilation is part of them, but small where energies are expensive; new samples would need new ones.
        timed = samples
    else:
        # The time that is stored with samples from a file includes compilation.
        _seconds_of_chunk(model, chunk)
        timed = generate(flow, target, min(n, _TIMED), seed=seeds.after(seed), model=model.name)
    frames = held_out(model, n, progress) if frames is None else frames
    if frames.fingerprint != target.fingerprint:
        raise DataError(f"the frames belong to {frames.fingerprint}, but the model to {target.fingerprint}.")

    frames, worth = chosen_frames(frames, n, seed=seed)
    seen = judged(flow, target, frames, seed=seed, worth=worth, stored=is_expensive(target), ratios=ratios or copies, progress=progress)
    augmented = _augmented_figures(flow, target, samples, seen, copies, progress, seed=seed) if flow.noisy_draws else {}
    progress.stop()
    likelihoods, forward = likelihood_figures(seen, target, seed=seed), forward_figures(seen, target, seed=seed)
    bennett = None
    # Weights that are more than those of draws of the flow do not belong to it.
    alike = seen.equally_weighted(seed=seed)
    if target.has_energy and samples.weights_follow and alike.weighed.sum() > 1 and np.isfinite(samples.log_weight).sum() > 1:
        bennett = bar.between(samples.log_weight, alike.log_w, grouping=alike.grouping, seed=seed).log_z
    ok = samples.status == Status.SOLVED
    known = target.has_energy
    # The tail of the weights tells of independent draws alone.
    verdict = weights.verdict(samples.log_weight) if known and not samples.grouped else None
    compared = seen.as_frames(frames, target)
    return {
        "target": model.config.target,
        "model": model.name,
        "n": samples.n,
        **likelihoods,
        **forward,
        "ess_reverse": samples.ess(seed=seed).as_dict() if known else None,
        "ess_reverse_trimmed": trimmed.reverse_ess(samples.log_weight, seed=seed).as_dict() if known and not samples.grouped else None,
        "log_z": samples.log_z(seed=seed).as_dict() if known else None,
        "log_z_bar": _plain(bennett),
        "path_length": _plain(metrics.mean(samples.path_length[ok], seed=seed) if np.isfinite(samples.path_length[ok]).any() else None),
        "nfe": _plain(metrics.mean(samples.nfe[ok].astype(float), seed=seed) if ok.any() else None),
        "pareto_k": _number(verdict.k) if verdict is not None else None,
        "verdict": dataclasses.asdict(verdict) | {"k": _number(verdict.k)} if verdict is not None else None,
        "solver_error": _plain(_solver_error(flow, target, samples, seed=seed)),
        "failed": samples.n_failed if known else samples.n_solver_failed,
        **({"other_stereoisomer": samples.n_other_stereoisomer} if target.chiral_centres else {}),
        **count_figures(seen, target),
        "seconds_per_1000": 1000.0 * float(timed.meta["seconds"]) / timed.n,
        "seconds_compile": seconds_compile,
        **augmented,
        "energies": _spent(model, samples),
        **scorecard(samples, compared, target, seed=seed, dynamics=slow, progress=progress),
        **identity(flow),
        "versions": versions(),
    }


def chosen_frames(frames: Dataset, n: int, *, seed: int) -> tuple[Dataset, float | None]:
    """The frames that an evaluation uses, and what they are worth.

    Args:
        frames: of the target.
        n: the most of them.
        seed: which ones.
    """
    # Frames lie chain by chain: the first n would be those of a few chains.
    worth = frames.n_effective
    frames = frames.spread(n, seed=seed)
    if frames.log_weight is not None and frames.n_effective is not None:
        worth = frames.n_effective if worth is None else min(worth, frames.n_effective)
    return frames, worth


def _spent(model: Model, samples: Samples) -> dict[str, dict[str, int] | None]:
    """Evaluations of the energy for the frames, the training, and the samples with what was done to them; None: not counted."""
    made, drawn = model.card.get("energies") or {}, Evaluations.of_meta(samples.meta)
    return {
        "reference": made.get("reference"),
        "training": made.get("training"),
        "sampling": None if drawn is None else drawn.as_dict(),
    }


# Samples whose density of positions alone is estimated: each takes many passes.
_MARGINAL = 1_000


def _augmented_figures(
    flow: AbstractFlow, target: Target, samples: Samples, frames: Judged, ratios: Ratios | None, progress: Progress, *, seed: int
) -> dict[str, Any]:
    """What the copies cost: `frames.draw_figures`, and reverse ESS with the copies averaged out.

    The last is that of finitely many draws; draws without end would give more.
    """
    figures = {**draw_figures(frames, seed=seed), "ess_reverse_marginal": None}
    kept = samples.take(correlation.spread(samples.n, _MARGINAL, seed=seed))
    if target.has_energy and np.isfinite(kept.log_weight).any():
        kept = kept if "draws" in kept.meta else averaged(kept, flow, target, ratios=ratios, progress=progress)
        figures["ess_reverse_marginal"] = kept.ess(seed=seed).as_dict()
    return figures


CHECKED = 32
"""Configurations whose log q is evaluated again with a finer solver."""


def _solver_error(flow: AbstractFlow, target: Target, samples: Samples, *, seed: int) -> Estimate | None:
    """Root mean square error of log q where the samples lie; None where there is none (`frames.solver_differences`)."""
    gain = log_images(flow, target)
    # Samples of another stereoisomer have not gained what the others have.
    counted = (samples.status == Status.SOLVED) & np.isfinite(samples.log_q) & (np.isfinite(samples.u) | (gain == 0.0))
    found = solver_differences(flow, samples.positions, samples.log_q, np.flatnonzero(counted), gain=gain, most=CHECKED, seed=seed)
    return mean_square_root(found[1], seed=seed)


def validation_frames(model: Model) -> Dataset | None:
    """Validation frames of the model's run; None where there are none."""
    from boltzflow import datasets

    data = model.config.data
    file = None if model.run is None else model.run / "data.h5"
    if file is None or not file.is_file() or not data.validation:
        return None
    frames = datasets.load(file, model.target, allow_virial_mismatch=data.allow_virial_mismatch)
    return frames.split(validation=data.validation, seed=data.split_seed)[1]


def held_out(model: Model, n: int, progress: Progress) -> Dataset:
    """Validation frames of the model's run, or reference frames made anew."""
    if (frames := validation_frames(model)) is not None:
        return frames
    return reference.sample(model.target, n, seed=REFERENCE_SEED, progress=progress).dataset


def _seconds_of_chunk(model: Model, chunk: int) -> float:
    began = time.perf_counter()
    solution = jax.block_until_ready(draw(model.flow, sample_keys(0, chunk, seed=0)))
    if not is_expensive(model.target):
        jax.block_until_ready(model.target.energies(solution.positions))
    return time.perf_counter() - began


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_dict()


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
