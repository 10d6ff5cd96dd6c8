"""The chirality of samples: mirror images are reflected where flow and target allow it, other stereoisomers lose their weight.

Samples are reflected first and get their energies then, so that these belong to the positions that are stored; see `flows.images`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from boltzflow import counting
from boltzflow.chemistry.chirality import chirality_signs
from boltzflow.errors import DataError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.identity import identity
from boltzflow.flows.images import log_images as log_images
from boltzflow.flows.status import Status
from boltzflow.sampling import devices
from boltzflow.sampling.samples import Samples, difference
from boltzflow.targets.base import Target
from boltzflow.targets.calculators import is_expensive


def energies(
    target: Target,
    positions: Float[np.ndarray, "n N D"],
    wanted: Bool[np.ndarray, " n"],
    batch: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Float[np.ndarray, " n"]:
    """Reduced energies of configurations, NaN where none is wanted.

    A compiled energy is computed for all, filled up to `batch`, because another number of configurations would be another program; with a
    mesh on its devices, of whose number `batch` is a multiple.
    """
    if is_expensive(target):
        found = np.full(len(positions), np.nan)
        found[wanted] = np.asarray(target.energies(jnp.asarray(positions[wanted])), np.float64)
        return found
    filled = np.concatenate([positions, np.repeat(positions[-1:], max(0, (batch or 0) - len(positions)), axis=0)])
    if mesh is None or len(filled) % mesh.size:
        found = target.energies(jnp.asarray(filled))
    else:
        found = devices.over(_energies_of, mesh, target.energies, jnp.asarray(filled))
    return np.where(wanted, np.asarray(found, np.float64)[: len(positions)], np.nan)


def _energies_of(energies: Callable[[Float[Array, "B N D"]], Float[Array, " B"]], positions: Float[Array, "B N D"]) -> Float[Array, " B"]:
    return energies(positions)


def right_enantiomer(
    positions: Float[np.ndarray, "n N D"], flow: AbstractFlow, target: Target
) -> tuple[Float[np.ndarray, "n N D"], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Configurations with mirror images reflected, where the flow is symmetric under reflections.

    Args:
        positions: configurations; those that are not finite are left alone.
        flow: the flow.
        target: the target, whose chiral centres have the chirality that is meant; without any everything stays as it is.

    Returns:
        The configurations, which of them were reflected, and which of them are another stereoisomer even so.
    """
    none = np.zeros(len(positions), bool)
    if not target.chiral_centres:
        return positions, none, none
    usable = np.asarray(np.isfinite(positions).all(axis=(1, 2)))
    found = chirality_signs(np.where(usable[:, None, None], positions, 0.0), target.chiral_centres)
    image = none if log_images(flow, target) == 0.0 else usable & (found < 0).all(axis=1)
    other = usable & ~image & ~(found > 0).all(axis=1)
    return np.where(image[:, None, None], -positions, positions), image, other


def with_right_enantiomer(
    samples: Samples, flow: AbstractFlow, target: Target, *, batch: int | None = None, mesh: jax.sharding.Mesh | None = None
) -> Samples:
    """Samples with mirror images reflected, and with the energies that they have then.

    Those that are another stereoisomer after that get `Status.OTHER_STEREOISOMER` and an infinite energy, hence no weight. Both are
    counted, in the meta: "reflected" and "other_stereoisomer". Targets without chiral centres leave everything as it is.

    Args:
        samples: samples as the flow drew them. Energies that are known are kept where positions are; NaN where there is none yet.
        flow: the flow; only one that is symmetric under reflections has its samples reflected.
        target: the target, whose chiral centres have the chirality that is meant.
        batch: configurations that the compiled energy takes at once, if these are fewer.
        mesh: devices that share them; None: one.
    """
    positions, image, other = right_enantiomer(np.asarray(samples.positions), flow, target)
    solved = (samples.status == Status.SOLVED) & ~other
    unknown = solved & (image | np.isnan(samples.u))
    u = np.where(unknown, energies(target, positions, unknown, batch, mesh), samples.u) if unknown.any() else samples.u
    spent = counting.Evaluations.of_meta(samples.meta) or counting.Evaluations()
    meta = {**samples.meta, **(spent + counting.Evaluations(energies=int(unknown.sum()) if target.has_energy else 0)).as_meta()}
    if not target.chiral_centres:
        return dataclasses.replace(samples, u=u, meta=meta)
    right = np.isfinite(positions).all(axis=(1, 2)) & ~other
    return dataclasses.replace(
        samples,
        positions=positions,
        log_q=samples.log_q + np.where(right, log_images(flow, target), 0.0),
        u=np.where(other, np.inf, u),
        status=np.where(other & (samples.status == Status.SOLVED), Status.OTHER_STEREOISOMER, samples.status),
        meta={**meta, "reflected": int(image.sum()), "other_stereoisomer": int((other & (samples.status == Status.SOLVED)).sum())},
    )


def check_samples(samples: Samples, flow: AbstractFlow, target: Target) -> None:
    """Checks that samples are of a target and a flow, as far as they state it.

    Raises:
        DataError: says of which they are, or what else they differ in.
    """
    fingerprint = samples.meta.get("fingerprint")
    if fingerprint != target.fingerprint:
        raise DataError(f"the samples belong to {fingerprint or 'an unknown target'}, but the model to {target.fingerprint}.")
    apart = difference(samples.meta, {**identity(flow), "draws": samples.meta.get("draws", 1)})
    if apart is not None:
        raise DataError(f"the samples are not of this flow as it is: they differ in {apart}; draw new ones.")
