"""Free-energy differences and profiles from weighted samples, in units of kT."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from boltzflow.analysis.estimate import LEVEL, Estimate, as_column, bootstrap, bootstrap_means, in_blocks
from boltzflow.analysis.metrics import bin_matrix
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError


@dataclasses.dataclass(frozen=True)
class Profile:
    """Free energy along a coordinate, -ln of its density, zero at its minimum.

    Attributes:
        edges: (b + 1,) edges of the bins, in units of the coordinate.
        free_energy: (b,) in kT; inf in bins without weight.
        low: (b,) lower end of the 95 % bootstrap band; NaN where there is none.
        high: (b,) upper end of the band; inf in bins that a bootstrap replica leaves empty.
        n: samples that the profile rests on.
    """

    edges: Float[np.ndarray, " b_plus_1"]
    free_energy: Float[np.ndarray, " b"]
    low: Float[np.ndarray, " b"]
    high: Float[np.ndarray, " b"]
    n: int

    @property
    def centers(self) -> Float[np.ndarray, " b"]:
        """(b,) middles of the bins."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def difference(log_w: Any, in_a: Any, in_b: Any, *, seed: int = 0, blocks: int | None = None) -> Estimate:
    """Free energy of region A above that of region B in kT, -ln(sum w 1_A / sum w 1_B).

    Infinite where one region holds no weight: the samples then only say that the difference is large.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        in_a: (n,) whether each sample lies in A.
        in_b: (n,) whether each sample lies in B.
        seed: seed of the bootstrap.
        blocks: number of blocks of consecutive samples that the bootstrap draws whole, for frames of chains, which are correlated;
            None: independent samples.

    Raises:
        DataError: if the shapes disagree, the masks are not boolean, or neither region holds weight.
    """
    weights = normalized(log_w)
    a, b = (_mask(mask, weights.size, name) for mask, name in ((in_a, "A"), (in_b, "B")))
    columns = np.stack([weights * a, weights * b], axis=1)
    if not columns.any():
        raise DataError("neither region A nor region B holds a sample that has weight; widen the regions or draw more samples.")
    return bootstrap(columns, lambda mean: np.log(mean[:, 1]) - np.log(mean[:, 0]), seed=seed, blocks=blocks)


def _mask(mask: Any, n: int, name: str) -> Bool[np.ndarray, " n"]:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (n,):
        raise DataError(f"region {name} must be a boolean array of shape ({n},), but is {mask.dtype} of shape {mask.shape}.")
    return mask


def profile(log_w: Any, values: Any, bins: Any = 50, *, seed: int = 0, blocks: int | None = None) -> Profile:
    """Free-energy profile along a coordinate, with bootstrap bands.

    Args:
        log_w: (n,) log-weights of samples of the flow, up to a constant.
        values: (n,) the coordinate, in its own units. Values of samples without weight do not matter and may be NaN.
        bins: edges (b + 1,), or their number over the range of the samples that have weight.
        seed: seed of the bootstrap.
        blocks: as for `difference`.

    Raises:
        DataError: if the shapes disagree or no sample with weight lies within the edges.
    """
    weights = normalized(log_w)
    values = as_column(values, "values", n=weights.size)
    values = np.where(weights > 0, values, np.nan)
    edges = np.histogram_bin_edges(values[np.isfinite(values)], bins)
    columns = bin_matrix(values[:, None], edges, weights)
    density = np.asarray(columns.sum(axis=0)).ravel() / np.diff(edges)
    if not density.any():
        raise DataError(f"no sample with weight lies between {edges[0]:g} and {edges[-1]:g}; choose other bins.")
    with np.errstate(divide="ignore", invalid="ignore"):
        free_energy = -np.log(density)
        # Each replica has its own constant; aligning their total weight leaves the band to show shape and noise, not a common shift.
        replicated = bootstrap_means(in_blocks(columns, blocks), seed=seed)
        replicated = replicated / replicated.sum(axis=1, keepdims=True) * np.sum(density * np.diff(edges))
        replicated = -np.log(replicated / np.diff(edges))
    replicated = replicated[~np.isnan(replicated).any(axis=1)]
    low, high = np.quantile(replicated, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0, method="inverted_cdf")
    low = np.where(np.isfinite(free_energy), np.minimum(low, free_energy), np.nan)
    shift = free_energy.min()
    return Profile(edges, free_energy - shift, low - shift, np.maximum(high, free_energy) - shift, weights.size)
