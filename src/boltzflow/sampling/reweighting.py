"""Samples of one target with the weights of another: another temperature, another force field, a better energy."""

import dataclasses
from typing import Any

import numpy as np

from boltzflow.counting import Evaluations
from boltzflow.errors import DataError
from boltzflow.flows.status import Status
from boltzflow.sampling.enantiomers import energies
from boltzflow.sampling.samples import Samples
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target

# Configurations whose energies are computed together.
_BATCH = 4096


def reweighted(samples: Samples, target: Target) -> Samples:
    """The same samples with the energies and weights of another target of the same particles.

    The log-weight of each changes by u - u', from the reduced energy it had to that of the other target: -u' - log q where it was
    -u - log q. A temperature is another target, too. The effective sample size tells how far it can be trusted: where the flow draws
    nothing, no weight brings a sample.

    Args:
        samples: samples of a flow, with their weights.
        target: the other target; its particles in the same order, in the same unit of length.

    Returns:
        Samples of the other target, those without a finite energy there without weight. Their meta says which target they were drawn for
        ("reweighted_from") and counts the new energies.

    Raises:
        DataError: if the other target has no energy, other particles or another unit of length, or the samples have weights of their own
            and no energies that these could be brought from.
    """
    if not target.has_energy:
        raise DataError(f"target {target.name!r} has no energy, so that there is nothing to reweight to.")
    shape = (target.n_particles, target.dimension)
    if samples.positions.shape[1:] != shape:
        raise DataError(f"the samples are of {samples.positions.shape[1:]} coordinates, but target {target.name!r} has {shape}.")
    units = samples.meta.get("units")
    if units is not None and units != target.units:
        raise DataError(f"the samples are in {units}, but target {target.name!r} is in {target.units}; convert one of them.")
    if samples.grouped and samples.meta.get("correction") is not None:
        raise DataError(
            "these samples are corrected chains or populations of their own target, whose weights no other energy can be put into; draw "
            "plain samples, or correct them for the other target."
        )
    if not samples.weights_follow and not samples.has_energy:
        raise DataError("these samples have weights of their own and no energies, so that those of another target cannot be found.")
    wanted = (samples.status == Status.SOLVED) & np.isfinite(samples.positions).all(axis=(1, 2))
    positions, found = np.asarray(samples.positions), []
    for begin in range(0, samples.n, _BATCH):
        part = slice(begin, begin + _BATCH)
        found.append(energies(target, positions[part], wanted[part], batch=min(_BATCH, samples.n)))
    u = np.where(wanted, np.concatenate(found) if found else np.empty(0), samples.u)
    meta: dict[str, Any] = {
        **{key: value for key, value in samples.meta.items() if key not in ("structure", "molecule", "energy")},
        "target": target.name,
        "fingerprint": target.fingerprint,
        "units": target.units,
        "reweighted_from": samples.meta.get("fingerprint"),
        **{name: text for name, text in molecule_folder.texts(target).items() if text},
        **((Evaluations.of_meta(samples.meta) or Evaluations()) + Evaluations(energies=int(wanted.sum()))).as_meta(),
    }
    if samples.weights_follow:
        return dataclasses.replace(samples, u=u, meta=meta)
    usable = np.isfinite(samples.log_weight) & np.isfinite(u) & np.isfinite(samples.u)
    log_weight = np.full(samples.n, -np.inf)
    log_weight[usable] = samples.log_weight[usable] + samples.u[usable] - u[usable]
    return dataclasses.replace(samples, u=u, log_weight=log_weight, meta=meta)
