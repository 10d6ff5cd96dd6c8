"""Weights of an augmented flow with the copies averaged out: fewer are heavy, for the price of as many evaluations of the flow."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow.errors import DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images
from boltzflow.progress import Wanted, told
from boltzflow.sampling.enantiomers import check_samples
from boltzflow.sampling.generate import log_importance_ratios
from boltzflow.sampling.ratios import RatioFarm, Ratios
from boltzflow.sampling.samples import SUMMED, Samples
from boltzflow.sampling.writer import SamplesWriter
from boltzflow.targets.base import Target

# Draws of copies must not come from the keys that the samples themselves came from.
_APART = 2**30


# Samples of one append to the file, in chunks of the flow; a kill loses no more.
_CHUNKS = 4


def averaged(
    samples: Samples, flow: AbstractFlow, target: Target, *, first: int = 0, ratios: Ratios | None = None, progress: Wanted = None
) -> Samples:
    """Samples of an augmented flow with log q averaged over draws of the copies, their own one among them.

    A sample (x, a) of the flow has log q(x, a) - log pi(a|x) in place of log q(x), and the noise of the copy is in its weight. Here K
    further copies a_k are drawn from pi(.|x), and log q becomes the logarithm of the mean of q(x, a_k) / pi(a_k|x) over all K + 1. Because
    the copy that came with the sample is one of them, the weights are exact for any K: (x, a) and K draws are as likely as any of the K + 1
    copies being the flow's own, so that the mean is the density of this mixture (multiple importance sampling; Veach and Guibas, 1995).

    Args:
        samples: samples of this flow, all of them or some; they may be thinned or joined before or after.
        flow: the flow; K is its `noisy_draws`.
        target: the target of the samples.
        first: number of the first of these samples where they are a part of more, so that no two parts draw the same noise.
        ratios: gives the draws instead of this process, such as workers of `models.remote.ratio_farm`; they are the same.
        progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        The same samples with another log q, in nats, and log-weights changed by as much; those without weight as they were.
        `meta["draws"]` is K + 1.

    Raises:
        DataError: if the flow has no copies, or the samples are averaged already, or not of this flow and target.
    """
    _require_copies(samples, flow, target)
    log_q = np.array(samples.log_q, np.float64)
    usable = _usable(samples)
    if usable.size:
        draw = ratios or functools.partial(log_importance_ratios, flow)
        drawn = np.asarray(draw(samples.positions[usable], seed=_seed(samples), first=first, progress=progress), np.float64)
        every = np.concatenate([log_q[usable, None], drawn + log_images(flow, target)], axis=1)
        with np.errstate(invalid="ignore"):
            log_q[usable] = np.logaddexp.reduce(every, axis=1) - np.log(every.shape[1])
    changed: dict[str, Any] = {"log_q": log_q}
    if not samples.weights_follow:
        # What the weights hold beyond -u - log q, of thinned samples for instance, stays.
        log_weight = np.array(samples.log_weight)
        log_weight[usable] += samples.log_q[usable] - log_q[usable]
        log_weight[np.isnan(log_weight)] = -np.inf
        changed["log_weight"] = log_weight
    return dataclasses.replace(samples, **changed, meta={**samples.meta, "draws": flow.noisy_draws + 1})


def _usable(samples: Samples) -> Int[np.ndarray, " m"]:
    """Places of the samples that have weight."""
    return np.flatnonzero(np.isfinite(samples.log_weight))


def _seed(samples: Samples) -> int:
    """Of the copies that are drawn."""
    return (int(samples.meta.get("seed", 0)) + _APART) % 2**31


def require_copies(flow: AbstractFlow) -> None:
    """Refuses a flow without copies.

    Raises:
        DataError: if it has none.
    """
    if not flow.noisy_draws:
        raise DataError("only an augmented flow has copies to average over; the log q of this flow is exact as it is.")


def _require_copies(samples: Samples, flow: AbstractFlow, target: Target) -> None:
    """Refuses a flow without copies, and samples that are averaged over them already.

    Raises:
        DataError: as `averaged`.
    """
    require_copies(flow)
    if "draws" in samples.meta:
        raise DataError(f"log q of these samples is averaged over {samples.meta['draws']} copies already.")
    if "correction" in samples.meta:
        raise DataError(f"these samples are corrected ({samples.meta['correction']}), and have no copies left to average over.")
    check_samples(samples, flow, target)


def average_to(
    samples: Samples,
    flow: AbstractFlow,
    target: Target,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    remote: RatioFarm | None = None,
    progress: Wanted = None,
) -> Samples:
    """As `averaged`, to a file, piece by piece: what is done outlasts a kill, and what comes out does not depend on kills.

    Args:
        samples: samples of this flow.
        flow: the flow.
        target: the target of the samples.
        out: the samples file to write.
        resume: continue the file if it is there.
        remote: workers that draw the copies instead of this process (`models.remote.ratio_farm`); the weights are the same.
        progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        The samples in the file.

    Raises:
        DataError: as `averaged`.
        RunError: if the file cannot be written, or holds other samples; or the workers are gone or not fit.
    """
    piece = _CHUNKS * flow.chunk_size
    _require_copies(samples, flow, target)
    draws = flow.noisy_draws + 1
    # Of which samples: the first of them tell drawings apart that have their settings in common.
    origin = hashlib.sha256(np.ascontiguousarray(samples.positions[:piece]).tobytes() + str(samples.n).encode()).hexdigest()[:16]
    meta = {**samples.meta, "draws": draws, "averaged": origin}
    with told(progress) as bar, SamplesWriter(Path(out), meta, resume=resume) as writer:
        bar.start(samples.n, "averaging")
        bar.update(writer.n_written)
        begins = range(writer.n_written, samples.n, piece)
        ratios = None if remote is None else remote.streamed(_asked(samples, begins, piece))
        for begin in begins:
            part = averaged(samples.take(slice(begin, begin + piece)), flow, target, first=begin, ratios=ratios, progress=False)
            # What adds up tells of all samples, and is told once.
            once = {key: value for key, value in part.meta.items() if begin == 0 or key not in SUMMED}
            writer.append(dataclasses.replace(part, meta={**once, "averaged": origin}))
            bar.update(writer.n_written)
    return Samples.load(Path(out), target)


def _asked(samples: Samples, begins: Iterable[int], piece: int) -> Iterator[tuple[Float[np.ndarray, "m N D"], int, int]]:
    """What `averaged` asks for, piece by piece."""
    for begin in begins:
        part = samples.take(slice(begin, begin + piece))
        yield part.positions[_usable(part)], _seed(part), begin
