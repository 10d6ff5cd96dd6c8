"""The tail of the weights: its shape, what may be claimed about their moments, and a bootstrap that knows what lies beyond the largest.

A bootstrap draws from the weights that were seen. Where few of them are heavy, what decides lies beyond the largest, no replica holds it,
and intervals flatter. Here each replica takes the tail from a generalised Pareto distribution whose parameters are drawn from their
posterior, so that an interval is as wide as the tail is unknown, and infinite where its moments may be. docs/intervals.md has the coverage.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.estimate import REPLICAS, bootstrap_means, in_blocks

MIN_TAIL = 25
"""Fewer weights than this in the tail say nothing about its shape that could be reported."""

FITTED, EQUAL, FEW, HEAVY = "fitted", "equal", "few", "heavy"

# A tail of fewer weights than this is not even fitted.
_LEAST = 5
# Samples below which no interval of reweighted figures is given.
_LEAST_SAMPLES = 25
# The prior of PSIS draws k towards 0.5 as ten more weights would (Vehtari et al., 2024, appendix G).
_PRIOR_K, _PRIOR_WEIGHT = 0.5, 10


def tail_size(n: int) -> int:
    """How many of n weights PSIS takes as the tail: 3 sqrt(n), or a fifth of few."""
    return int(3 * math.sqrt(n)) if n > 225 else n // 5


def limit(n: int) -> float:
    """The shape k above which averages over n weighted samples are not to be trusted, min(0.7, 1 - 1 / log10 n).

    Source: Vehtari, Simpson, Gelman, Yao and Gabry, J. Mach. Learn. Res. 25, 72 (2024), section 3.
    """
    return min(0.7, 1.0 - 1.0 / math.log10(n)) if n > 10 else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Tail:
    """The largest of n weights, and the generalised Pareto distribution that they seem to come from.

    Attributes:
        state: `FITTED`; `EQUAL` where the largest weight is one of many of its size, so that nothing lies beyond; `FEW` where there are too
            few samples to tell; `HEAVY` where too few of the samples carry all the weight for a fit.
        n: number of weights.
        k: shape; NaN where it is not fitted.
        inside: (n,) which weights make the tail, those above the threshold.
        threshold: largest weight below the tail.
        size: number of weights in the tail.
        grid: (3, m) of the parameter theta = -k / sigma, the shape k that fits best with it, and the posterior probability.
    """

    state: str
    n: int
    k: float = math.nan
    inside: Bool[np.ndarray, " n"] | None = None
    threshold: float = 0.0
    size: int = 0
    grid: Float[np.ndarray, "3 m"] | None = None

    @property
    def bounded_moments(self) -> bool:
        """Whether averages over the weights may have a two-sided interval."""
        return self.state == EQUAL or (self.state == FITTED and self.k < limit(self.n))

    def reason(self, power: int = 1) -> str:
        """Why there is no two-sided interval of the mean of w^power, in words."""
        if self.state == FEW:
            return f"{self.n} samples are too few to judge by"
        if self.state == HEAVY:
            return "so few samples carry all the weight that nothing is known about the heavier ones that were not drawn"
        bound = limit(self.n) if power == 1 else 1.0 / power
        if self.k >= bound:
            return f"the weights' tail is too heavy, Pareto k {self.k:.2f} above {bound:.2g}: what decides may not have been drawn"
        return f"the weights' tail (Pareto k {self.k:.2f}) may be too heavy for a limit on this side; more samples would tell"

    def draws(self, replicas: int, *, seed: int, size: float | None = None) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
        """Shapes and scales drawn from the posterior; `size` is what a tail of correlated samples is worth."""
        assert self.grid is not None
        rng = np.random.default_rng([seed, 1])
        chosen = rng.choice(self.grid.shape[1], replicas, p=self.grid[2])
        theta, k = self.grid[0, chosen], self.grid[1, chosen]
        # Given theta, log(1 - theta x) is exponential with mean k, of which the tail is `size` draws.
        worth = max(2.0, self.size if size is None else size)
        k = k * worth / rng.gamma(worth, size=replicas)
        return k, -k / theta

    def means(self, replicas: int, *, seed: int, power: int = 1, size: float | None = None) -> Float[np.ndarray, " R"]:
        """Mean of w^power, 1 or 2, over the tail, of distributions drawn from the posterior; inf where there is none."""
        k, sigma = self.draws(replicas, seed=seed, size=size)
        u = self.threshold
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            first = np.where(k < 1.0, sigma / (1.0 - k), np.inf)
            if power == 1:
                return u + first
            second = np.where(k < 0.5, 2.0 * sigma**2 / ((1.0 - k) * (1.0 - 2.0 * k)), np.inf)
        return u * u + (2.0 * u * first if u > 0.0 else 0.0) + second


def times(share: Float[np.ndarray, " R"], mean: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    """What a tail adds to a mean; nothing where a replica has no sample in it, however large the tail's own mean."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(share > 0.0, share * mean, 0.0)


def fit(weights: Float[np.ndarray, " n"]) -> Tail:
    """The tail of weights, by the posterior over a grid of Zhang and Stephens (Technometrics 51, 316, 2009) that PSIS fits with.

    Args:
        weights: (n,) non-negative weights divided by the largest.
    """
    n = weights.size
    if n < _LEAST_SAMPLES:
        return Tail(FEW, n)
    equal = bool(np.sum(weights >= 0.99 * weights.max()) >= max(_LEAST, min(MIN_TAIL, n // 10)))
    size = tail_size(n)
    threshold = float(np.partition(weights, n - size - 1)[n - size - 1])
    inside = weights > threshold
    excess = np.sort(weights[inside] - threshold)
    if excess.size < _LEAST or np.unique(excess).size < _LEAST or excess[0] == 0.0:
        # Ties below a few large ones; or all but a few are zero.
        return Tail(EQUAL if equal else HEAVY, n, inside=inside, threshold=threshold, size=int(excess.size))
    m = excess.size
    count = 30 + int(math.sqrt(m))
    theta = 1.0 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))
    theta = theta / (3.0 * excess[max(int(m / 4 + 0.5) - 1, 0)]) + 1.0 / excess[-1]
    with np.errstate(all="ignore"):
        shapes = np.mean(np.log1p(-theta[:, None] * excess), axis=1)
        log_likelihood = m * (np.log(-theta / shapes) - shapes - 1.0)
    usable = np.isfinite(log_likelihood) & np.isfinite(shapes)
    if not usable.any():
        return Tail(EQUAL if equal else HEAVY, n, inside=inside, threshold=threshold, size=m)
    theta, shapes, log_likelihood = theta[usable], shapes[usable], log_likelihood[usable]
    probability = np.exp(log_likelihood - log_likelihood.max())
    probability /= probability.sum()
    mean_theta = float(np.sum(theta * probability))
    k = float(np.mean(np.log1p(-mean_theta * excess)))
    k = (m * k + _PRIOR_WEIGHT * _PRIOR_K) / (m + _PRIOR_WEIGHT)
    return Tail(EQUAL if equal else FITTED, n, k, inside, threshold, m, np.stack([theta, shapes, probability]))


def replicated_sums(
    columns: Any, weights: Float[np.ndarray, " n"], tail: Tail, *, seed: int, replicas: int = REPLICAS, grouping: Correlation | None = None
) -> tuple[Float[np.ndarray, "R m"], Float[np.ndarray, "R m"]]:
    """Means of columns that are proportional to the weights, in replicas of two bootstraps.

    Args:
        columns: (n, m) values per sample, each with the sample's weight as a factor; NumPy array or SciPy sparse matrix.
        weights: (n,) the weights whose tail was fitted, in the units of the fit.
        tail: their tail.
        seed: seed.
        replicas: R.
        grouping: how samples that are correlated are drawn; None draws single samples.

    Returns:
        (R, m) of the plain bootstrap, and of the one that takes the mean weight in the tail from its posterior; the same where there is no
        fit. In the second a tail without a mean weighs 1e100 times what it seems to.
    """
    blocks = None if grouping is None else grouping.blocks
    if tail.state != FITTED:
        plain = bootstrap_means(in_blocks(columns, blocks), seed=seed, replicas=replicas)
        return plain, plain
    assert tail.inside is not None
    sparse = not isinstance(columns, np.ndarray)
    inside = tail.inside.astype(np.float64)
    beside = np.stack([inside, inside * weights], axis=1)
    if sparse:
        from scipy.sparse import csr_array, diags_array, hstack

        above = diags_array(inside) @ columns
        stacked: Any = csr_array(hstack([columns, above, csr_array(beside)]))
    else:
        stacked = np.concatenate([columns, columns * inside[:, None], beside], axis=1)
    means = bootstrap_means(in_blocks(stacked, blocks), seed=seed, replicas=replicas)
    m = columns.shape[1]
    plain, above, share, mass = means[:, :m], means[:, m : 2 * m], means[:, 2 * m], means[:, 2 * m + 1]
    worth = None if grouping is None else tail.size * grouping.n_effective / grouping.n
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = times(share, tail.means(replicas, seed=seed, size=worth)) / mass
    factor = np.where(mass > 0, np.minimum(factor, 1e100), 1.0)
    return plain, plain + above * (factor - 1.0)[:, None]
