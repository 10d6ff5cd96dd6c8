"""Bennett's acceptance ratio between samples of a flow and frames of its target: log Z and averages from both sets at once.

Where one set alone would rest on a few heavy weights, both together do not: the weight of a sample in the mixture of the two densities is
bounded. With two states it is the same as the multistate method (MBAR). Sources: Bennett, J. Comput. Phys. 22 (1976) 245; Shirts and
Chodera, J. Chem. Phys. 129 (2008) 124105.
"""

import dataclasses
import functools
import logging
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from boltzflow import extras
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.estimate import NONE, Estimate, as_column, bracket, percentile_interval
from boltzflow.errors import DataError

_REPLICAS = 200
# Frames in the flow's region, each counted by the flow's share there, with fewer of which there is no interval.
_LEAST_SHARED = 1.0


@dataclasses.dataclass(frozen=True)
class Bar:
    """What both sets together say.

    Example:
        >>> from boltzflow.analysis import bar
        >>> rng = np.random.default_rng(0)
        >>> joined = bar.between(rng.normal(-0.5, 1.0, 200), rng.normal(0.5, 1.0, 200), replicas=20)
        >>> joined.log_weight.shape, 0.0 <= joined.overlap <= 1.0
        ((400,), True)

    Attributes:
        log_z: log partition function of the target on the zero-CoM subspace, with a bootstrap interval.
        standard_error: of log Z, by the covariance of the method, which takes all samples for independent.
        log_weight: (n + m,) log-weights of the samples and then of the frames, for averages of the target.
        overlap: share of the frames' probability that the flow's samples reach, from 0 (nothing in common) to 1 (the same density).
    """

    log_z: Estimate
    standard_error: float
    log_weight: Float[np.ndarray, " n_plus_m"]
    overlap: float
    _replicas: Float[np.ndarray, "R n_plus_m"] = dataclasses.field(repr=False)  # unnormalised weights
    _widening: float = 1.0

    def expectation(self, values: Any, frame_values: Any) -> Estimate:
        """Expectation of an observable under the target.

        Args:
            values: (n,) values of the samples.
            frame_values: (m,) values of the frames.
        """
        pooled = self._pooled(values, frame_values)

        def mean(weights: Float[np.ndarray, "*batch s"]) -> Any:
            return (weights @ np.where(self.log_weight > -np.inf, pooled, 0.0)) / weights.sum(axis=-1)

        return self._estimate(mean)

    def free_energy_difference(self, in_a: Any, in_b: Any, frames_in_a: Any, frames_in_b: Any) -> Estimate:
        """Free energy of region A above that of region B in kT, -ln(p_A / p_B).

        Args:
            in_a: (n,) booleans of the samples.
            in_b: likewise.
            frames_in_a: (m,) booleans of the frames.
            frames_in_b: likewise.
        """
        a, b = (self._pooled(*pair).astype(np.float64) for pair in ((in_a, frames_in_a), (in_b, frames_in_b)))

        def difference(weights: Float[np.ndarray, "*batch s"]) -> Any:
            with np.errstate(divide="ignore"):
                return np.log(weights @ b) - np.log(weights @ a)

        return self._estimate(difference)

    def profile(self, values: Any, frame_values: Any, edges: Any) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, "b 2"]]:
        """Free energy of bins in kT above that of the lowest one, with the ends of their intervals.

        Args:
            values: (n,) values of the samples.
            frame_values: (m,) values of the frames.
            edges: (b + 1,) rising edges of the bins.
        """
        place = np.searchsorted(np.asarray(edges, np.float64), self._pooled(values, frame_values), side="right") - 1
        bins = len(edges) - 1
        columns = np.stack([place == i for i in range(bins)], axis=1).astype(np.float64)

        def height(weights: Float[np.ndarray, "*batch s"]) -> Any:
            with np.errstate(divide="ignore"):
                return -np.log(weights @ columns / weights.sum(axis=-1, keepdims=True))

        mean = height(self._weights)
        lowest = int(np.argmin(mean))
        drawn = height(self._replicas)
        with np.errstate(invalid="ignore"):
            mean, drawn = mean - mean[lowest], drawn - drawn[:, lowest : lowest + 1]
        ends = [percentile_interval(drawn[:, i], self.log_weight.size) for i in range(bins)]
        return mean, np.array([self._widened(float(value), low, high) for value, (low, high) in zip(mean, ends, strict=True)])

    @property
    def _weights(self) -> Float[np.ndarray, " n_plus_m"]:
        return np.exp(self.log_weight - self.log_weight.max())

    def _pooled(self, values: Any, frame_values: Any) -> np.ndarray:
        pooled = np.concatenate([np.asarray(values).ravel(), np.asarray(frame_values).ravel()])
        if pooled.size != self.log_weight.size:
            raise DataError(f"there are {pooled.size} values for {self.log_weight.size} samples and frames; pass one for each.")
        return pooled

    def _widened(self, value: float, low: float, high: float) -> tuple[float, float]:
        with np.errstate(invalid="ignore"):
            return value - self._widening * (value - low), value + self._widening * (high - value)

    def _estimate(self, statistic: Any) -> Estimate:
        value = float(statistic(self._weights))
        low, high = self._widened(value, *percentile_interval(statistic(self._replicas), self.log_weight.size))
        return bracket(value, low, high, self.log_weight.size)


def between(log_w: Any, log_w_of_frames: Any, *, grouping: Correlation | None = None, seed: int = 0, replicas: int = _REPLICAS) -> Bar:
    """Joins samples of a flow and frames of its target.

    Args:
        log_w: (n,) log-weights -u - log q of samples of the flow; -inf for those that failed, which count as samples without weight.
        log_w_of_frames: (m,) -u - log q of frames of the target (of an augmented flow: with one draw of the copies), in the order of their
            chains.
        grouping: what the frames are worth (`correlation.of_series`); None: they are independent.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Raises:
        DataError: if there are too few of either, or log-weights of frames are not finite.
    """
    own, other = as_column(log_w, "log-weights"), as_column(log_w_of_frames, "log-weights of frames")
    if not np.isfinite(other).all():
        raise DataError("log-weights of frames must be finite; leave out frames whose energy or log q is not, and report their number.")
    if np.isnan(own).any() or np.isposinf(own).any():
        raise DataError("log-weights must be finite, or -inf for a sample without weight; some are NaN or +inf.")
    if np.isfinite(own).sum() < 2 or other.size < 2:
        raise DataError("a Bennett acceptance ratio needs at least two samples with weight and two frames.")
    n, m = own.size, other.size
    pooled = np.concatenate([own, other])
    log_z = float(_solved(pooled, np.ones((1, n + m)), n)[0])
    log_weight = _mixture(pooled, n, log_z)
    counts = _counts(n, m, grouping, replicas, np.random.default_rng(seed))
    drawn = _solved(pooled, counts, n)
    replicated = np.stack([row * np.exp(_mixture(pooled, n, at) - log_weight.max()) for row, at in zip(counts, drawn, strict=True)])
    widening = 1.0 if grouping is None else grouping.widening
    low, high = (log_z + widening * (end - log_z) for end in percentile_interval(drawn, n + m))
    # Half of the frames' probability in an even mixture is the flow's, where the two are the same.
    with np.errstate(over="ignore"):
        overlap = 2.0 * float(np.mean(1.0 / (1.0 + np.exp(other - log_z))))
    found = bracket(log_z, low, high, n + m)
    if 0.5 * overlap * m < _LEAST_SHARED:
        # Replicas of sets without a region in common scatter little about a value that means nothing.
        found = Estimate(log_z, -math.inf, math.inf, n + m, NONE, "samples and frames have next to no region in common")
    return Bar(found, _standard_error(own, other, log_z), log_weight, min(1.0, overlap), replicated, widening)


def _mixture(log_w: Float[np.ndarray, " s"], n: int, log_z: float) -> Float[np.ndarray, " s"]:
    """Log of p~ / (n q + m p~ / Z), in terms of w = p~ / q."""
    with np.errstate(invalid="ignore"):
        found = log_w - np.logaddexp(math.log(n), math.log(log_w.size - n) + log_w - log_z)
    return np.where(np.isneginf(log_w), -np.inf, found)


def _counts(n: int, m: int, grouping: Correlation | None, replicas: int, rng: np.random.Generator) -> Float[np.ndarray, "R n_plus_m"]:
    """How often each sample and each frame occurs in replicas; each set keeps its size, frames go in blocks."""
    rows = []
    blocks = None if grouping is None else grouping.blocks
    for _ in range(replicas):
        own = rng.multinomial(n, np.full(n, 1.0 / n))
        if blocks is None:
            frames = rng.multinomial(m, np.full(m, 1.0 / m))
        else:
            frames = rng.multinomial(blocks, np.full(blocks, 1.0 / blocks))[np.arange(m) * blocks // m]
        rows.append(np.concatenate([own, frames]))
    return np.stack(rows).astype(np.float64)


@functools.cache
def _bar() -> Any:
    """Pymbar's solver of two states, which is NumPy; that of many states would switch JAX to double precision for the whole process."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with extras.of("evaluate", "Bennett's ratio"):
            from pymbar.other_estimators import bar
    finally:
        logger.setLevel(level)
    return bar


def _solved(log_w: Float[np.ndarray, " s"], counts: Float[np.ndarray, "R s"], n: int) -> Float[np.ndarray, " R"]:
    """Log Z of replicas, where the samples' probability that is the target's equals the frames' that is the flow's.

    Args:
        log_w: log-weights of the n samples and then of the m frames.
        counts: how often each occurs in a replica, n samples in all.
        n: number of samples.
    """
    # Samples without weight count in n alone.
    kept = np.isfinite(log_w)
    own, finite, counts = np.arange(log_w.size)[kept] < n, log_w[kept], counts[:, kept]
    found: list[float] = []
    for row in counts:
        # Replicas lie near each other.
        found.append(_root(finite, row, own, n, log_w.size - n, found[0] if found else None))
    return np.array(found)


def _root(
    log_w: Float[np.ndarray, " s"], counts: Float[np.ndarray, " s"], own: Bool[np.ndarray, " s"], n: int, m: int, start: float | None
) -> float:
    """One replica's log Z, by Newton's method for the logarithm of the ratio of both sums, in a bracket that shrinks.

    In logarithms throughout: particles that overlap make weights of e^-100 000 000, and far from the root Newton's steps are right only if
    no sum underflows.
    """
    if not counts[own].any():
        # A replica without a single sample of weight: the least that can be said.
        return float(log_w.min()) - 2.0 * math.log(n) - math.log(n + m)
    # With all w/Z above n^2 the frames' sum is the smaller one, unless all samples but one failed; with all of them below 1/e the samples'.
    low, high = float(log_w.min()) - 2.0 * math.log(n) - math.log(n + m), float(log_w.max()) + 1.0 + math.log(n + m)
    at = float(np.median(log_w)) if start is None else min(max(start, low), high)
    for _ in range(200):
        log_odds = math.log(m) + log_w - at
        log_share = -np.logaddexp(math.log(n), log_odds)
        target_share, flow_share = np.exp(log_odds + log_share), np.exp(math.log(n) + log_share)
        frames, slope_of_frames = _log_sum(math.log(n) + log_share[~own], counts[~own], target_share[~own])
        samples, slope_of_samples = _log_sum((log_odds + log_share)[own], counts[own], flow_share[own])
        difference = frames - samples
        low, high = (at, high) if difference < 0.0 else (low, at)
        new = at - difference / (slope_of_frames + slope_of_samples)
        before, at = at, new if low < new < high else 0.5 * (low + high)
        if abs(at - before) < 1e-9:
            break
    return at


def _log_sum(logs: Float[np.ndarray, " s"], counts: Float[np.ndarray, " s"], slopes: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Logarithm of the sum of counted exponentials, and the mean of slopes that these weigh."""
    highest = float(np.max(logs[counts > 0.0]))
    terms = counts * np.exp(np.minimum(logs - highest, 0.0))
    total = float(np.sum(terms))
    return highest + math.log(total), float(np.sum(terms * slopes)) / total


def _standard_error(own: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"], log_z: float) -> float:
    """By the asymptotic covariance (pymbar), at the solution."""
    # Works of going from the flow, which is normalised, to the target, and back. A sample without weight cannot go: its share of e^-40 is
    # as good as none, and does not underflow in pymbar's sums; nor does one of next to no weight, or a frame that the flow hardly knows.
    forward = np.where(np.isneginf(own), 40.0 - min(log_z, own[np.isfinite(own)].min()), -own)
    forward, other = np.minimum(forward, 600.0 - log_z), np.minimum(other, 600.0 + log_z)
    with np.errstate(all="ignore"):
        found = _bar()(forward, other, DeltaF=-log_z, method="self-consistent-iteration", iterated_solution=False)
    return float(found["dDelta_f"])
