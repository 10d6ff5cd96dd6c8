"""Fewer samples where there are enough of them, for what is dear to compute for each."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis.estimate import as_column
from boltzflow.errors import DataError


class Thinning(NamedTuple):
    """Which samples are kept, and how their density changes by that.

    Attributes:
        kept: (m,) their places.
        log_q: (m,) what is to be added to log q of each.
    """

    kept: Int[np.ndarray, " m"]
    log_q: Float[np.ndarray, " m"]


def thinning(keep: Any, *, seed: int) -> Thinning:
    """Keeps each sample with a probability of its own, and says how its weight makes up for that.

    Those that are kept are draws from q(x) keep(x) over its normalisation, which takes the place of q(x): log Z and expectations stay
    consistent, while noise shrinks where samples are rare and all kept. Take the samples that are kept, compute what is dear, and then add
    to their log q. The bootstrap of intervals draws among those that are kept.

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
    return Thinning(kept, np.log(probability[kept]) - np.log(probability.mean()))
