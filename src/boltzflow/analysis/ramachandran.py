"""Densities of pairs of torsions, and how far two of them are apart."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis.estimate import Estimate, as_column, bootstrap_means, bracket, percentile_interval
from boltzflow.analysis.weights import normalized
from boltzflow.errors import DataError

BINS = 64
"""Bins along each torsion, as published (Midgley, Stimper et al., 2023)."""

# Keeps the logarithm of empty bins finite, as published.
_FLOOR = 1e-10


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
    phi_target: Any, psi_target: Any, phi: Any, psi: Any, *, log_w: Any = None, bins: int = BINS, seed: int = 0, replicas: int = 200
) -> Estimate:
    """Kullback-Leibler divergence of the Ramachandran density of samples from that of target frames, sum of h_t ln(h_t / h_g).

    Source: Midgley, Stimper et al., NeurIPS 2023, arXiv:2308.10364, appendix on alanine dipeptide; 1e-10 is added to the densities inside
    the logarithm. Counting noise keeps it above zero even for the same density; the interval is the basic bootstrap one, which takes off
    the shift that resampling adds.

    Args:
        phi_target: (m,) torsions of the frames in radians.
        psi_target: (m,) likewise.
        phi: (n,) torsions of the samples.
        psi: (n,) likewise.
        log_w: (n,) log-weights of the samples up to a constant; None weighs all alike.
        bins: bins along each axis.
        seed: seed of the bootstrap.
        replicas: bootstrap replicas.
    """
    target, samples = _columns(phi_target, psi_target, None, bins), _columns(phi, psi, log_w, bins)
    area = (2.0 * math.pi / bins) ** 2

    def apart(p: Float[np.ndarray, "R b"], q: Float[np.ndarray, "R b"]) -> Float[np.ndarray, " R"]:
        p, q = (part / part.sum(axis=1, keepdims=True) for part in (p, q))
        return np.sum(p * np.log((p / area + _FLOOR) / (q / area + _FLOOR)), axis=1)

    value = float(apart(*(np.asarray(part.sum(axis=0)).reshape(1, -1) for part in (target, samples)))[0])
    drawn = [bootstrap_means(part, seed=seed + i, replicas=replicas) for i, part in enumerate((target, samples))]
    kept = (drawn[0].sum(axis=1) > 0) & (drawn[1].sum(axis=1) > 0)
    n = min(target.shape[0], samples.shape[0])
    low, high = percentile_interval(apart(drawn[0][kept], drawn[1][kept]), n)
    return bracket(value, max(0.0, 2.0 * value - high), max(0.0, 2.0 * value - low), n)


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
