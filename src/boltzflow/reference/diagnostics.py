"""Convergence of many chains: split R-hat, bulk effective sample size, autocorrelation times."""

from typing import Any

import numpy as np
from jaxtyping import Float


def split_r_hat(chains: Float[np.ndarray, "C K"]) -> float:
    """Split R-hat of C chains of K draws (Gelman et al., 2013, section 11.4), 1 for converged chains; NaN below 4 draws."""
    if chains.shape[1] < 4 or np.ptp(chains) == 0:
        return float("nan")
    return float(_array_stats().rhat(chains, method="split"))


def bulk_ess(chains: Float[np.ndarray, "C K"]) -> float:
    """Bulk effective sample size of C chains of K draws (Vehtari et al., 2021), as a number of draws."""
    if chains.shape[1] < 4 or np.ptp(chains) == 0:
        return float("nan")
    return float(_array_stats().ess(chains, method="bulk"))


def autocorrelation_time(chains: Float[np.ndarray, "C K"]) -> float:
    """Integrated autocorrelation time 1 + 2 sum of rho(t) in draws, with the mean and variance over all chains.

    The sum ends at the first window of 5 times the time itself (Sokal, 1996). Using the common mean, chains that have not mixed show up
    as a long time.
    """
    centred = chains - chains.mean()
    variance = np.mean(centred**2)
    if variance == 0:
        return 1.0
    time = 1.0
    length = chains.shape[1]
    for lag in range(1, length):
        time += 2 * np.mean(centred[:, lag:] * centred[:, :-lag]) / variance
        if lag >= 5 * time:
            break
    return float(max(time, 1.0))


def _array_stats() -> Any:
    # Imported where it is used: it is slow to import.
    from arviz_stats.base.array import array_stats

    return array_stats
