"""Densities of pairs of torsions, and how far two of them are apart."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import distances, tails
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.estimate import as_column, in_blocks
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

BINS = 64
"""Bins along each torsion, as published (Midgley, Stimper et al., 2023)."""

# Keeps the logarithm of empty bins finite, as published.
_FLOOR = 1e-10

# The number of samples in a bin is given in the replicas; that of independent sets scatters, too: their divergences scatter up to 1.1
# times as much (docs/intervals.md).
_WIDENING = 1.15


def density(phi: Any, psi: Any, *, log_w: Any = None, bins: int = BINS) -> Float[np.ndarray, "b b"]:
    """Probability per square radian over phi (first axis) and psi, from -pi to pi.

    Args:
        phi: (n,) torsions in radians.
        psi: (n,) likewise.
        log_w: (n,) log-weights up to a constant; None weighs all alike. Samples without weight may have any torsions.
        bins: bins along each axis.
    """
    return np.asarray(_columns(phi, psi, log_w, bins).sum(axis=0)).reshape(bins, bins) / (2.0 * math.pi / bins) ** 2


def divergence(
    phi_target: Any,
    psi_target: Any,
    phi: Any,
    psi: Any,
    *,
    log_w: Any = None,
    bins: int = BINS,
    seed: int = 0,
    replicas: int = 120,
    blocks: int | None = None,
) -> Distance:
    """Kullback-Leibler divergence of the Ramachandran density of samples from that of target frames, sum of h_t ln(h_t / h_g).

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix on alanine dipeptide; 1e-10 is added to the densities inside
    the logarithm. Their figure is `seen`, which counting noise keeps above zero even for the same density; value and interval have that
    taken off (`distances`). The noise of a bin is that of a Poisson number of samples as heavy as those in it.

    Args:
        phi_target: (m,) torsions of the frames in radians, in the order of their chains if they are correlated.
        psi_target: (m,) likewise.
        phi: (n,) torsions of the samples.
        psi: (n,) likewise.
        log_w: (n,) log-weights of the samples up to a constant; None weighs all alike.
        bins: bins along each axis.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.
        blocks: blocks of consecutive frames of the target that count as independent; None: its frames are.
    """
    parts = _columns(phi_target, psi_target, None, bins), _columns(phi, psi, log_w, bins)
    area = (2.0 * math.pi / bins) ** 2
    n = min(part.shape[0] for part in parts)
    found = [np.asarray(part.sum(axis=0)).ravel() for part in parts]
    held = (found[0] > 0) | (found[1] > 0)
    found = [part[held] for part in found]
    squares = np.asarray(parts[1].multiply(parts[1]).sum(axis=0)).ravel()[held]

    def apart(p: Float[np.ndarray, "R b"], q: Float[np.ndarray, "R b"]) -> Float[np.ndarray, " R"]:
        return np.sum(p * np.log((p / area + _FLOOR) / (q / area + _FLOOR)), axis=1)

    seen = float(apart(found[0][None], found[1][None])[0])
    weights = np.full(parts[1].shape[0], 1.0) if log_w is None else normalized(log_w)
    tail = tails.fit(weights / weights.max())
    if log_w is not None and not tail.bounded_moments:
        return distances.unknown(seen, n, tail.reason())
    if n < 2:
        return distances.unknown(seen, n, "one sample is too few")
    # What one sample adds to a bin: of frames a share of 1 / m, more where they are correlated; of weighted samples the mean by weight.
    overall = float(squares.sum())
    frames = _inefficiency(parts[0], blocks) / parts[0].shape[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        quanta = [np.full(held.sum(), frames), np.where(found[1] > 0, squares / found[1], overall)]
    counts = [part / quantum for part, quantum in zip(found, quanta, strict=True)]
    worth = [float(part.sum()) for part in counts]
    # Both densities where there is no difference between them, each set counting by what it is worth.
    common = (counts[0] + counts[1]) / sum(worth)
    own = [part / total for part, total in zip(counts, worth, strict=True)]

    def population(step: float) -> list[Float[np.ndarray, " b"]]:
        moved = [np.maximum(common + step * (part - common), 0.0) for part in own]
        return [part / part.sum() for part in moved]

    def sampled(step: float) -> Float[np.ndarray, " R"]:
        # Given the samples of both sets in a bin, those of the target are a binomial number of them. In this way bins that neither set has
        # entered need no density, though many of them together have some: rare bins are what keeps the divergence of equal densities high.
        rng = np.random.default_rng([seed, 4])
        p, q = population(step)
        expected = worth[0] * p, worth[1] * q
        total = np.floor(counts[0] + counts[1] + rng.random((replicas, p.size))).astype(np.int64)
        taken = rng.binomial(total, expected[0] / np.maximum(expected[0] + expected[1], 1e-300))
        drawn = [taken * quanta[0], (total - taken) * quanta[1]]
        return apart(*(part / np.maximum(part.sum(axis=1, keepdims=True), 1e-300) for part in drawn))

    return distances.inverted(
        lambda step: float(apart(*(part[None] for part in population(step)))[0]), sampled, seen, n, widening=_WIDENING
    )


def _inefficiency(columns: Any, blocks: int | None) -> float:
    """How many correlated frames are worth one, by the scatter of blocks of them over all bins."""
    if blocks is None:
        return 1.0
    per_block = np.asarray(in_blocks(columns, blocks).todense())
    p = per_block.sum(axis=0) / per_block.sum()
    independent = float(np.sum(p * (1.0 - p))) / columns.shape[0]
    scatter = float(np.sum(np.var(per_block * columns.shape[0], axis=0, ddof=1))) / blocks
    return max(1.0, scatter / independent) if independent > 0 else 1.0


def _columns(phi: Any, psi: Any, log_w: Any, bins: int) -> Any:
    """What each sample adds to each bin, a sparse (n, bins²) matrix."""
    from scipy.sparse import csr_array

    phi = as_column(phi, "phi")
    psi = as_column(psi, "psi", n=phi.size)
    weights = np.full(phi.size, 1.0 / phi.size) if log_w is None else normalized(log_w)
    if weights.size != phi.size:
        raise DataError(f"there are {weights.size} log-weights for {phi.size} samples; pass one per sample.")
    kept = weights > 0
    if not (np.isfinite(phi[kept]).all() and np.isfinite(psi[kept]).all()):
        raise DataError("torsions of samples that have weight are not finite; leave these samples out and report their number.")
    rows = np.flatnonzero(kept)
    place = [np.minimum(((angle[rows] + math.pi) / (2.0 * math.pi) * bins).astype(np.int64), bins - 1) for angle in (phi, psi)]
    return csr_array((weights[rows], (rows, place[0] * bins + place[1])), shape=(phi.size, bins**2))
