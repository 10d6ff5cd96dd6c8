"""Do two sets of samples come from the same density? One coordinate at a time, with correlated samples allowed."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis.estimate import LEVEL, as_column, bootstrap_means, in_blocks
from boltzflow.analysis.metrics import bin_matrix
from boltzflow.errors import DataError

BLOCKS = 64
"""Blocks of consecutive samples, each taken as independent of the others."""


# A bin that should hold fewer samples of the smaller set is joined with others like it: where it is empty, a bootstrap knows no noise.
_LEAST = 5.0


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two histograms of the same bins are apart, in units of their noise.

    Example:
        >>> a, b = np.random.default_rng(0).normal(size=(2, 1_000))
        >>> found = bf.analysis.agreement.of_histograms(a, b, np.linspace(-3, 3, 13), replicas=200)
        >>> found.within <= found.bins, 0.0 <= found.p_value <= 1.0
        (True, True)

    Attributes:
        chi_square: sum over the bins of the squared difference of their probabilities, each divided by its variance.
        expected: its mean over bootstrap replicas of two sets of the same density; neighbouring bins need not be independent.
        p_value: share of these replicas whose chi-square is at least as large; below 0.05 the sets disagree at the level of 95 %.
        within: bins whose difference has a 95 % interval that holds zero.
        bins: bins that are compared; those that should hold fewer than 5 samples of either set count as one.
    """

    chi_square: float
    expected: float
    p_value: float
    within: int
    bins: int

    @property
    def agree(self) -> bool:
        """Whether the two sets agree at the level of 95 %."""
        return self.p_value >= 1.0 - LEVEL

    def sentence(self) -> str:
        """The outcome in one sentence."""
        return (
            f"{'agree' if self.agree else 'DISAGREE'}: chi-square {self.chi_square:.1f} where equal densities give {self.expected:.1f} on "
            f"average (p = {self.p_value:.3f}); {self.within} of {self.bins} bins differ by no more than their 95 % intervals allow"
        )


def of_histograms(values_a: Any, values_b: Any, edges: Any, *, blocks: int = BLOCKS, seed: int = 0, replicas: int = 2000) -> Agreement:
    """Compares the histograms of two independent sets of samples, and with them their free-energy profiles.

    The noise is that of a bootstrap that draws blocks of consecutive samples, so that samples may be correlated within chains. Noise that
    a set does not show is not allowed for: a basin that one set has never entered makes the two disagree.

    Args:
        values_a: (n,) a coordinate of the samples of one set, chain by chain.
        values_b: (m,) likewise of the other.
        edges: (b + 1,) rising edges of the bins.
        blocks: number of blocks of each set, much longer than the correlation.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.

    Raises:
        DataError: if a set has no values between the edges, or fewer values than blocks.
    """
    edges = np.asarray(edges, np.float64)
    sizes, parts = [], []
    for values in (values_a, values_b):
        values = as_column(values, "values")
        columns = bin_matrix(values[:, None], edges, np.ones(values.size))
        parts.append(np.asarray(in_blocks(columns, blocks).todense()))
        sizes.append(values.size)
        if not parts[-1].any():
            raise DataError(f"no value lies between {edges[0]:g} and {edges[-1]:g}; choose other bins.")
    found, drawn = [], []
    for number, columns in enumerate(_joined(parts, sizes)):
        replicated = bootstrap_means(columns, seed=2 * seed + number, replicas=replicas)
        drawn.append(replicated / replicated.sum(axis=1, keepdims=True))
        found.append(columns.sum(axis=0) / columns.sum())
    difference = found[0] - found[1]
    noise = (drawn[0] - found[0]) - (drawn[1] - found[1])
    noise = noise[np.isfinite(noise).all(axis=1)]
    held = noise.std(axis=0) > 0
    difference, noise = difference[held], noise[:, held]
    deviation = noise.std(axis=0)
    chi_square = float(np.sum((difference / deviation) ** 2))
    by_chance = np.sum((noise / deviation) ** 2, axis=1)
    low, high = np.quantile(noise, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    within = int(np.sum((low <= difference) & (difference <= high)))
    # The replica that was observed is one of those that equal densities can give.
    p_value = float((1 + np.sum(by_chance >= chi_square)) / (1 + len(by_chance)))
    return Agreement(chi_square, float(by_chance.mean()), p_value, within, int(held.sum()))


def _joined(parts: list[Float[np.ndarray, "B b"]], sizes: list[int]) -> list[Float[np.ndarray, "B c"]]:
    """The same with all bins that should hold few samples of the smaller set as one bin, at the end."""
    total = sum(size * columns.mean(axis=0) for columns, size in zip(parts, sizes, strict=True))
    few = total / sum(sizes) * min(sizes) < _LEAST
    return [np.concatenate([columns[:, ~few], columns[:, few].sum(axis=1, keepdims=True)], axis=1) for columns in parts]
