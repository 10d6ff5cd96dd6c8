"""Weights of an augmented flow with the copies averaged out: fewer are heavy, for the price of as many evaluations of the flow."""

import dataclasses

import numpy as np

from boltzflow.errors import DataError
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images
from boltzflow.progress import Progress
from boltzflow.sampling.generate import log_marginals
from boltzflow.sampling.hands import check_samples
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target

# Draws of copies must not come from the keys that the samples themselves came from.
_APART = 2**30


def averaged(samples: Samples, flow: AbstractFlow, target: Target, *, progress: Progress | None = None) -> Samples:
    """Samples of an augmented flow with log q averaged over draws of the copies, their own one among them.

    A sample (x, a) of the flow has log q(x, a) - log pi(a|x) in place of log q(x), and the noise of the copy is in its weight. Here K
    further copies a_k are drawn from pi(.|x), and log q becomes the logarithm of the mean of q(x, a_k) / pi(a_k|x) over all K + 1. Because
    the copy that came with the sample is one of them, the weights are exact for any K: (x, a) and K draws are as likely as any of the K + 1
    copies being the flow's own, so that the mean is the density of this mixture (multiple importance sampling; Veach and Guibas, 1995).

    Args:
        samples: samples of this flow, all of them or some; they may be thinned or joined before or after.
        flow: the flow; K is its `marginal_draws`.
        target: the target of the samples.
        progress: told how many are done.

    Returns:
        The same samples with another log q, in nats, and log-weights changed by as much; those without weight as they were.
        `meta["draws"]` is K + 1.

    Raises:
        DataError: if the flow has no copies, or the samples are averaged already, or not of this flow and target.
    """
    if not isinstance(flow, AugmentedCouplingFlow):
        raise DataError("only an augmented flow has copies to average over; the log q of this flow is exact as it is.")
    if "draws" in samples.meta:
        raise DataError(f"log q of these samples is averaged over {samples.meta['draws']} copies already.")
    check_samples(samples, flow, target)
    log_q = np.array(samples.log_q, np.float64)
    usable = np.flatnonzero(np.isfinite(samples.log_weight))
    if usable.size:
        seed = (int(samples.meta.get("seed", 0)) + _APART) % 2**31
        drawn = np.asarray(log_marginals(flow, samples.positions[usable], seed=seed, progress=progress), np.float64)
        every = np.concatenate([log_q[usable, None], drawn + log_images(flow, target)], axis=1)
        log_q[usable] = np.logaddexp.reduce(every, axis=1) - np.log(every.shape[1])
    log_weight = None
    if not samples.weights_follow:
        # What the weights hold beyond -u - log q, of thinned samples for instance, stays.
        log_weight = np.array(samples.log_weight)
        log_weight[usable] += samples.log_q[usable] - log_q[usable]
    return dataclasses.replace(samples, log_q=log_q, log_weight=log_weight, meta={**samples.meta, "draws": flow.marginal_draws + 1})
