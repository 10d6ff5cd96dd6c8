"""Frames of a target as a flow sees them: their densities and weights, and the figures that rest on these."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from boltzflow.analysis import Estimate, correlation, metrics, trimmed, weights
from boltzflow.datasets import Dataset
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images
from boltzflow.flows.status import Status
from boltzflow.progress import Progress
from boltzflow.sampling.enantiomers import energies, right_enantiomer
from boltzflow.sampling.generate import log_density, log_importance_ratios
from boltzflow.sampling.ratios import Ratios
from boltzflow.targets.base import Target


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """Frames with what a flow says of them, in their order.

    Attributes:
        positions: (n, N, D) the configurations that count: mirror images are reflected where the flow draws both enantiomers alike.
        mirrored: (n,) which were reflected.
        other: (n,) which are another stereoisomer than the target; none of its frames.
        draws: (n, K) draws of log q, in nats, the mean of whose exponentials is the density; one where it is exact. NaN where the solver
            failed.
        u: (n,) reduced energies; NaN where there is none.
        log_weight: (n,) log-weights of frames that do not count alike; None where they do.
        worth: the most independent frames they are worth; None if nobody tells.
        spent: evaluations of the energy that it took to know u.
    """

    positions: Float[np.ndarray, "n N D"]
    mirrored: Bool[np.ndarray, " n"]
    other: Bool[np.ndarray, " n"]
    draws: Float[np.ndarray, "n K"]
    u: Float[np.ndarray, " n"]
    log_weight: Float[np.ndarray, " n"] | None
    worth: float | None
    spent: int

    def taken(self, indices: Int[np.ndarray, " m"]) -> "Judged":
        """Some of them, or all in another order."""
        columns = {name: getattr(self, name)[indices] for name in ("positions", "mirrored", "other", "draws", "u")}
        weight = None if self.log_weight is None else self.log_weight[indices]
        return dataclasses.replace(self, **columns, log_weight=weight)

    def as_frames(self, frames: Dataset, target: Target) -> Dataset:
        """The frames that they are of, as the target counts them: reflected where they must be, and without other stereoisomers."""
        kept = ~self.other
        return dataclasses.replace(
            frames,
            positions=self.positions[kept],
            energies=self.u[kept] if target.has_energy else None,
            log_weight=None if self.log_weight is None else self.log_weight[kept],
        )

    def equally_weighted(self, *, seed: int) -> "Judged":
        """As many that count alike, drawn by their weights, in their order; themselves where they do already."""
        if self.log_weight is None:
            return self
        chosen = np.sort(weights.resample_indices(self.log_weight, len(self.u), seed=seed))
        return dataclasses.replace(self.taken(chosen), log_weight=None)

    def mean(self, values: Float[np.ndarray, " n"], which: Bool[np.ndarray, " n"], *, seed: int) -> Estimate | None:
        """Mean over some of them, by their weights, with its interval; None where none of them has weight."""
        log_weight = None if self.log_weight is None else self.log_weight[which]
        if not which.any() or (log_weight is not None and not np.isfinite(log_weight).any()):
            return None
        return mean_over(values[which], log_weight, worth=self.worth, seed=seed)

    @functools.cached_property
    def log_q(self) -> Float[np.ndarray, " n"]:
        """(n,) log densities in nats, the draws averaged; NaN where the solver failed."""
        return np.logaddexp.reduce(self.draws, axis=1) - math.log(self.draws.shape[1])

    @functools.cached_property
    def solved(self) -> Bool[np.ndarray, " n"]:
        """(n,) which have a density and are frames of the target."""
        return np.isfinite(self.log_q) & np.isfinite(self.draws[:, 0]) & ~self.other

    @functools.cached_property
    def weighed(self) -> Bool[np.ndarray, " n"]:
        """(n,) which have a density and an energy."""
        return self.solved & np.isfinite(self.u)

    @property
    def log_w(self) -> Float[np.ndarray, " m"]:
        """(m,) log-weights -u - log q of those that have one, with the first draw of each: the weights that samples are drawn with."""
        return -(self.u + self.draws[:, 0])[self.weighed]

    @property
    def grouping(self) -> correlation.Correlation | None:
        """What the log-weights are worth, in the order of the chains."""
        return _correlation(self.log_w, self.worth)


def judged(
    flow: AbstractFlow,
    target: Target,
    frames: Dataset,
    *,
    seed: int,
    worth: float | None,
    stored: bool,
    chunk: int | None = None,
    ratios: Ratios | None = None,
    progress: Progress,
) -> Judged:
    """Densities and energies of frames.

    Args:
        flow: the flow.
        target: the target of both.
        frames: the frames, in the order of their chains.
        seed: of the draws, where there are any; those of frame i depend on the seed and on i alone.
        worth: the most independent frames they are worth; None if nobody tells.
        stored: take the energies that lie with the frames, but for mirror images; else they are computed anew.
        chunk: frames per compiled call; None: that of the flow.
        ratios: gives the densities instead of this process, such as workers.
        progress: told how many are done.
    """
    # Energies are those of the configuration that counts, which a flow that draws both enantiomers alike finds as probable as the frame.
    positions, mirrored, other = right_enantiomer(frames.positions, flow, target)
    draw = ratios or functools.partial(log_importance_ratios, flow)
    draws = np.asarray(draw(positions, seed=seed, chunk=chunk, progress=progress), np.float64)
    if not stored or frames.energies is None:
        again, u = ~other, np.full(len(positions), np.nan)
    else:
        again, u = mirrored & ~other, np.where(other, np.nan, frames.energies)
    if again.any():
        u[again] = energies(target, positions, again)[again]
    spent = int(again.sum()) if target.has_energy else 0
    return Judged(positions, mirrored, other, draws + log_images(flow, target), u, frames.log_weight, worth, spent)


def likelihood_figures(frames: Judged, target: Target, *, seed: int) -> dict[str, Any]:
    """NLL, its distance from the entropy where log Z is known, and the EUBO; None where a thing does not apply."""
    log_q, u, weighed = frames.log_q, frames.u, frames.weighed
    above = None
    if target.exact.log_z is not None:
        # The divergence KL(p||q). Against NLL - (mean energy + log Z) with the exact mean energy this leaves out the noise that -log q and
        # u have in common, which is nearly all of it.
        above = frames.mean(-log_q - u - target.exact.log_z, weighed, seed=seed)
    nll, eubo = frames.mean(-log_q, frames.solved, seed=seed), frames.mean(-log_q - u, weighed, seed=seed)
    return {"nll": _plain(nll), "nll_minus_entropy": _plain(above), "eubo": _plain(eubo)}


def forward_figures(frames: Judged, target: Target, *, seed: int) -> dict[str, Any]:
    """Forward effective sample sizes; None where there are no weights."""
    frames = frames.equally_weighted(seed=seed)
    if not target.has_energy or not frames.weighed.any():
        return {"ess_forward": None, "ess_forward_trimmed": None}
    log_w, grouping = frames.log_w, frames.grouping
    return {
        "ess_forward": weights.forward_ess(log_w, seed=seed, correlation=grouping).as_dict(),
        "ess_forward_trimmed": trimmed.forward_ess(log_w, seed=seed, correlation=grouping).as_dict(),
    }


def draw_figures(frames: Judged, *, seed: int) -> dict[str, Any]:
    """What the copies of an augmented flow cost: NLL with one draw of them, and ESS of the draws."""
    draws, usable = frames.draws, frames.solved & np.isfinite(frames.draws).all(axis=1)
    finite = np.where(usable[:, None], draws, 0.0)
    inner = np.exp(2 * np.logaddexp.reduce(finite, axis=1) - np.logaddexp.reduce(2 * finite, axis=1)) / draws.shape[1]
    return {
        "marginal_draws": draws.shape[1],
        "nll_one_draw": _plain(frames.mean(-draws[:, 0], usable, seed=seed)),
        "ess_of_draws": _plain(frames.mean(inner, usable, seed=seed)),
    }


def count_figures(frames: Judged, target: Target) -> dict[str, Any]:
    """How many frames have no figure: the solver failed, another stereoisomer, or an energy that is not finite."""
    without = int(np.sum(~frames.solved)) + (int(np.sum(frames.solved & ~frames.weighed)) if target.has_energy else 0)
    reflected = {"reflected_frames": int(np.sum(frames.mirrored))} if target.chiral_centres else {}
    return {**reflected, "failed_frames": without}


def solver_differences(
    flow: AbstractFlow,
    positions: Float[np.ndarray, "n N D"],
    log_q: Float[np.ndarray, " n"],
    candidates: Int[np.ndarray, " c"],
    *,
    gain: float,
    most: int,
    seed: int,
    progress: Progress | bool = False,
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """By how much log q differs from that of a finer solver with the exact divergence; NLL and ESS of one too coarse may look too good.

    Args:
        flow: the flow.
        positions: configurations.
        log_q: their log densities as the flow gives them, and what mirror images have added.
        candidates: places of those that may be looked at.
        gain: what mirror images have added.
        most: how many are looked at, spread over the candidates.
        seed: which ones.
        progress: told how many are done.

    Returns:
        Places and differences; none where the density is exact or a draw.
    """
    finer = flow.finer()
    checked = candidates[correlation.spread(candidates.size, most, seed=seed)]
    if finer is None or not len(checked):
        return np.empty(0, np.int64), np.empty(0)
    again = log_density(finer, positions[checked], seed=seed, progress=progress)
    solved = np.asarray(again.status == Status.SOLVED)
    return checked[solved], (log_q[checked] - np.asarray(again.log_q, np.float64) - gain)[solved]


def mean_square_root(differences: Float[np.ndarray, " m"], *, seed: int) -> Estimate | None:
    """Root mean square with its interval; None of nothing."""
    if not len(differences):
        return None
    squared = metrics.mean(differences**2, seed=seed)
    # The ends of an interval close to zero may be rounded below it.
    value, low, high = (math.sqrt(max(0.0, end)) for end in (squared.value, squared.low, squared.high))
    return Estimate(value, low, high, squared.n)


def mean_over(values: Float[np.ndarray, " n"], log_weight: Float[np.ndarray, " n"] | None, *, worth: float | None, seed: int) -> Estimate:
    """Mean of values of frames in the order of their chains, by their weights if they have any, with its interval.

    Args:
        values: finite where a frame has weight.
        log_weight: log-weights, one of which at least is finite; None: frames count alike.
        worth: the most independent frames they are worth; None if nobody tells.
        seed: of the bootstrap.
    """
    if log_weight is None:
        return metrics.mean(values, seed=seed, correlation=_correlation(values, worth))
    weight = weights.normalized(log_weight)
    used = np.where(weight > 0.0, values, 0.0)
    # What moves the mean is each frame's share of it.
    grouping = _correlation(weight * (used - np.sum(weight * used)) * len(used), worth)
    return weights.expectation(log_weight, used, seed=seed, correlation=grouping)


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_dict()


def _correlation(values: Float[np.ndarray, " n"], worth: float | None) -> correlation.Correlation | None:
    """What values of frames in the order of their chains are worth; None if any is not finite, which says more than an interval."""
    return correlation.of_series(values, at_most=worth) if np.isfinite(values).all() else None
