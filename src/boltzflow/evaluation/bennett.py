"""Samples of a flow joined with frames of its target; see `analysis.bar`."""

import numpy as np

from boltzflow.analysis import bar, correlation
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images
from boltzflow.progress import Progress
from boltzflow.sampling.enantiomers import check_samples, energies, right_enantiomer
from boltzflow.sampling.generate import log_importance_ratios
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target


def joined(flow: AbstractFlow, target: Target, samples: Samples, frames: Dataset, *, seed: int, progress: Progress) -> bar.Bar:
    """Bennett's acceptance ratio between samples and frames; see `evaluation.model.Model.bar`.

    Raises:
        DataError: if they do not belong together, or the weights of one of them are unknown.
    """
    if not target.has_energy:
        raise DataError(f"target {target.name!r} has no energy, so that its samples and frames have no weights to be joined by.")
    check_samples(samples, flow, target)
    if not samples.weights_follow or samples.meta.get("draws", 1) != 1:
        raise DataError("these samples were averaged, thinned or corrected; Bennett's ratio needs plain draws of the flow.")
    if frames.fingerprint != target.fingerprint:
        raise DataError(f"the frames belong to {frames.fingerprint}, but the model to {target.fingerprint}.")
    if frames.log_weight is not None:
        raise DataError("these frames are weighted, and Bennett's ratio takes all alike; draw such that do: data.equally_weighted().")
    positions, _, other = right_enantiomer(frames.positions, flow, target)
    # Of copies one draw, as samples have theirs: the two are joined in the space of positions and copies.
    single = flow.with_draws(1) if flow.noisy_draws else flow
    draws = log_importance_ratios(single, positions, seed=seed, progress=progress)[:, 0] + log_images(flow, target)
    log_w = -np.asarray(draws, np.float64) - energies(target, positions, ~other)
    if not np.isfinite(log_w).all():
        raise DataError(
            f"{int(np.sum(~np.isfinite(log_w)))} of the {frames.n} frames have no finite energy or log q, or are of another stereoisomer; "
            "leave them out."
        )
    grouping = correlation.of_series(log_w, at_most=frames.n_effective)
    return bar.between(samples.log_weight, log_w, grouping=grouping, seed=seed)
