"""Fewer samples where there are enough of them, for what is dear to compute for each."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.analysis.estimate import as_column
from boltzflow.errors import DataError
from boltzflow.sampling.samples import Samples


def thinned(samples: Samples, keep: Any, *, seed: int) -> Samples:
    """Keeps each sample with a probability of its own, and lets its weight make up for that.

    Those that are kept are draws from q(x) keep(x), which takes the place of q(x): log Z and expectations stay consistent, while noise
    shrinks where samples are rare and all kept. The bootstrap of intervals draws among those that are kept.

    Args:
        samples: samples of a flow.
        keep: (n,) probabilities in (0, 1].
        seed: seed of the choice.

    Returns:
        The samples that are kept, with log q of the thinned density.

    Raises:
        DataError: if a probability is not in (0, 1], or no sample is kept.
    """
    probability: Float[np.ndarray, " n"] = as_column(keep, "keep", n=samples.n)
    if not ((probability > 0) & (probability <= 1)).all():
        raise DataError("each sample is kept with a probability above 0 and up to 1; some of `keep` are not.")
    kept = np.flatnonzero(np.random.default_rng(seed).random(samples.n) < probability)
    if not kept.size:
        raise DataError("no sample is kept; raise `keep`.")
    fewer = samples.take(kept)
    return dataclasses.replace(fewer, log_q=fewer.log_q + np.log(probability[kept]) - np.log(probability.mean()))
