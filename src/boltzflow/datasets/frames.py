"""Frames that come as arrays or trajectories, and the chirality of frames."""

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from boltzflow.chemistry.chirality import chirality_signs
from boltzflow.errors import DataError
from boltzflow.targets.base import Target

# Mirror images whose energies are compared with those of the frames; energies can be expensive.
_COMPARED = 16
# In kT; the rest is the rounding of single precision.
_SAME, _ROUNDING = 0.01, 3e-5


def with_right_enantiomer(positions: Float[np.ndarray, "n N D"], target: Target, source: str) -> tuple[Float[np.ndarray, "n N D"], int]:
    """Frames of which the mirror images are reflected, as is exact where both have the same energy: that is tried.

    Args:
        positions: frames.
        target: the target, whose chiral centres have the chirality that is meant.
        source: what to call the frames in messages.

    Returns:
        The frames, and how many of them were reflected; a warning says so, too.

    Raises:
        DataError: if frames are another stereoisomer at some centres only, or the energy of mirror images is another, or unknown.
    """
    if not target.chiral_centres:
        return positions, 0
    found = chirality_signs(positions, target.chiral_centres)
    image: Bool[np.ndarray, " n"] = np.asarray((found < 0).all(axis=1))
    right = (found > 0).all(axis=1)
    other = ~(image | right)
    if other.any():
        first = int(np.flatnonzero(other)[0])
        centre = int(np.flatnonzero(found[first] < 0)[0])
        raise DataError(
            f"{source}: {int(other.sum())} of {len(positions)} frames are of another stereoisomer than target {target.name!r}, the first "
            f"at index {first} (at {_atom(target, centre)}); remove them, or make the target of a structure that has their chirality."
        )
    if not image.any():
        return positions, 0
    count = f"{int(image.sum())} of {len(positions)} frames have the other chirality than target {target.name!r} (at {_atom(target, 0)})"
    if not target.has_energy:
        raise DataError(
            f"{source}: {count}, and it has no energy to tell whether mirror images weigh the same; reflect them, or remove them."
        )
    tried = positions[image]
    tried = tried[np.unique(np.linspace(0, len(tried) - 1, _COMPARED).astype(int))].astype(np.float32)
    u = np.asarray(target.energies(jnp.asarray(np.concatenate([tried, -tried]))), np.float64).reshape(2, -1)
    difference = np.abs(u[0] - u[1])
    if not (difference <= _SAME + _ROUNDING * np.abs(u[0])).all():
        raise DataError(
            f"{source}: {count}, and mirror images do not have the same energy (it differs by {difference.max():.2g} kT), so that they "
            "cannot be reflected; remove them, or make the target of a structure that has their chirality."
        )
    warnings.warn(f"{source}: {count}: they are reflected, which is exact because their mirror images have the same energy.", stacklevel=4)
    return np.where(image[:, None, None], -positions, positions), int(image.sum())


class Given(NamedTuple):
    """Frames that were given as an object.

    Attributes:
        positions: the frames.
        source: what to call them in messages.
        log_weight: their log-weights; None where they count alike.
        in_time: whether they lie in the order of time.
    """

    positions: np.ndarray
    source: str
    log_weight: np.ndarray | None = None
    in_time: bool = False


def array_of(frames: Any, target: Target) -> Given:
    """The positions in an array, an MDTraj trajectory, or samples of a flow.

    Raises:
        DataError: if they are something else, a trajectory has other atoms than the target, or samples are of another target or have no
            weights.
    """
    kind = f"{type(frames).__module__}.{type(frames).__name__}"
    if hasattr(frames, "xyz") and hasattr(frames, "topology"):
        _check_atoms(frames.topology, target)
        return Given(np.asarray(frames.xyz), "the trajectory", in_time=True)
    if hasattr(frames, "log_q") and hasattr(frames, "positions"):
        return _of_samples(frames, target)
    try:
        array = np.asarray(frames)
    except Exception as error:  # whatever an object of another package raises
        raise DataError(f"frames must be an array (n, N, D), but {kind} is none ({error}).") from error
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise DataError(
            f"frames must be a Dataset, the name of a file, an array of numbers (n, {target.n_particles}, {target.dimension}) or an MDTraj "
            f"trajectory, but are {kind}."
        )
    return Given(array, "the array of frames")


def _of_samples(samples: Any, target: Target) -> Given:
    """Those of a flow's samples that have weight, with their weights."""
    if not samples.has_energy:
        raise DataError("these samples have no weights, as their target has no energy; as frames they would stand for the flow alone.")
    fingerprint = samples.meta.get("fingerprint")
    if fingerprint != target.fingerprint:
        raise DataError(f"the samples belong to {fingerprint or 'an unknown target'}, but the target is {target.fingerprint}.")
    kept = np.isfinite(samples.log_weight)
    if not kept.any():
        raise DataError("none of the samples has weight.")
    return Given(samples.positions[kept], "the samples", samples.log_weight[kept])


def _check_atoms(topology: Any, target: Target) -> None:
    """Refuses a trajectory whose atoms are not those of the target, one by one."""
    if target.units != "nm":
        raise DataError(
            f"a trajectory has positions in nm, but target {target.name!r} has {target.units} units; convert them, and give an array."
        )
    if topology is None:
        return
    if topology.n_atoms != target.n_particles:
        raise DataError(
            f"the trajectory has {topology.n_atoms} atoms, but target {target.name!r} has {target.n_particles}; select them with "
            "trajectory.atom_slice, without solvent."
        )
    there = [atom.element.symbol if atom.element is not None else "X" for atom in topology.atoms]
    for index, (symbol, expected) in enumerate(zip(there, target.elements, strict=False)):
        # Virtual sites and beads are X or VS in one, and anything in the other.
        if symbol != expected and not {symbol, expected} & {"X", "VS"}:
            raise DataError(
                f"atom {index} of the trajectory is {symbol}, but {expected} in target {target.name!r}: the atoms are in another order, or "
                "those of another molecule; bring them into the target's order with trajectory.atom_slice."
            )


def _atom(target: Target, centre: int) -> str:
    """The atom of a chiral centre in words."""
    index = target.chiral_centres[centre].atom
    if target.topology is None:
        return f"atom {index}"
    atom = list(target.topology.atoms())[index]
    return f"{atom.name} of {atom.residue.name} {atom.residue.id}"
