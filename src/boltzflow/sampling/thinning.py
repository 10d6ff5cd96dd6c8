"""Fewer samples where there are enough of them, for what is expensive to compute for each."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis.estimate import as_column
from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples


class Thinning(NamedTuple):
    """Which samples are kept, and how their weights change by that.

    Example:
        >>> from boltzflow.sampling.thinning import Thinning
        >>> Thinning(kept=np.array([0, 2]), log_weight=np.log([2.0, 2.0])).kept
        array([0, 2])

    Attributes:
        kept: (m,) their places.
        log_weight: (m,) what is to be added to the log-weight of each.
    """

    kept: Int[np.ndarray, " m"]
    log_weight: Float[np.ndarray, " m"]

    @property
    def log_q(self) -> Float[np.ndarray, " m"]:
        """Refuses: log q of samples stays that of the flow, so that they can still be averaged, judged and joined."""
        raise DataError("thinning changes the weights of samples and not their log q; use `thinned(samples, keep, seed=...)`.")


def thinning(keep: Any, *, seed: int) -> Thinning:
    """Keeps each sample with a probability of its own, and says how its weight makes up for that.

    Those that are kept are draws from q(x) keep(x) over its normalisation, which takes the place of q(x): log Z and expectations stay
    consistent, while noise shrinks where samples are rare and all kept. The bootstrap of intervals draws among those that are kept.

    Args:
        keep: (n,) probabilities in (0, 1].
        seed: seed of the choice.

    Raises:
        DataError: if a probability is not in (0, 1], or no sample is kept.
    """
    probability: Float[np.ndarray, " n"] = as_column(keep, "keep")
    if not ((probability > 0) & (probability <= 1)).all():
        raise DataError("each sample is kept with a probability above 0 and up to 1; some of `keep` are not.")
    kept = np.flatnonzero(np.random.default_rng(seed).random(probability.size) < probability)
    if not kept.size:
        raise DataError("no sample is kept; raise `keep`.")
    return Thinning(kept, np.log(probability.mean()) - np.log(probability[kept]))


def thinned(samples: Samples, keep: Any, *, seed: int) -> Samples:
    """The samples that `thinning` keeps, with the weights that make up for those that are left out.

    Log q stays that of the flow, so that they may be averaged, joined and thinned again, before or after.

    Args:
        samples: any samples.
        keep: (n,) probabilities in (0, 1].
        seed: seed of the choice.

    Raises:
        DataError: as `thinning`, or if there is not one probability for each sample.
    """
    if np.shape(keep) != (samples.n,):
        raise DataError(f"`keep` must give one probability for each of the {samples.n} samples, but has shape {np.shape(keep)}.")
    found = thinning(keep, seed=seed)
    return dataclasses.replace(samples.take(found.kept), log_weight=samples.log_weight[found.kept] + found.log_weight)
