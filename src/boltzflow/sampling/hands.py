"""The hands of samples: mirror images are reflected where flow and target allow it, other stereoisomers lose their weight.

Many flows are symmetric under reflections and draw either mirror image of a chiral molecule alike, while the target means one hand. A
sample whose centres all have the other hand is the mirror image of a right one. Reflected, it is a draw from the folded density, which is
q(x) + q(-x) = 2 q(x) on the right hand: log q gains ln 2 there, for reflected samples and for those that were right from the start.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from boltzflow.flows.base import AbstractFlow
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target
from boltzflow.targets.chirality import hands


def log_images(flow: AbstractFlow, target: Target) -> float:
    """What the density of the right hand gains when mirror images are reflected: ln 2, or 0 where they are not."""
    return math.log(2.0) if target.chiral_centres and flow.mirror_symmetric else 0.0


def with_right_hand(samples: Samples, flow: AbstractFlow, target: Target) -> Samples:
    """Samples with mirror images reflected; those that have another hand then get an infinite energy, hence no weight.

    Both are counted, in the meta: "reflected" and "other_hand". Targets without chiral centres leave everything as it is.

    Args:
        samples: samples of the flow.
        flow: the flow; only one that is symmetric under reflections has its samples reflected.
        target: the target, whose chiral centres have the hand that is meant.
    """
    if not target.chiral_centres:
        return samples
    gain = log_images(flow, target)
    positions: Float[np.ndarray, "n N D"] = np.asarray(samples.positions)
    usable = np.asarray(np.isfinite(positions).all(axis=(1, 2)))
    found = hands(np.where(usable[:, None, None], positions, 0.0), target.chiral_centres)
    image = np.asarray(usable & (found < 0).all(axis=1) & (gain > 0.0))
    right = image | (usable & (found > 0).all(axis=1))
    return dataclasses.replace(
        samples,
        positions=np.where(image[:, None, None], -positions, positions),
        log_q=samples.log_q + np.where(right, gain, 0.0),
        u=np.where(usable & ~right, np.inf, samples.u),
        meta={**samples.meta, "reflected": int(image.sum()), "other_hand": int((usable & ~right).sum())},
    )
