"""Reading data sets, with every check that a wrong file should fail."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boltzflow import files
from boltzflow.datasets import frame_weights, trajectories
from boltzflow.datasets.dataset import IN_TIME, Dataset
from boltzflow.datasets.frames import array_of, with_right_enantiomer
from boltzflow.datasets.stored import holds, is_trajectory, read, read_numpy
from boltzflow.datasets.virial import VirialCheck, check_with_energies, memory_of, virial_check
from boltzflow.errors import DataError
from boltzflow.targets import molecule_folder
from boltzflow.targets.base import Target

MEMORY = "virial_memory"
"""Name in the provenance under which the outcome of the virial check is kept, with a hash of the frames and of their target."""


def load(
    path: str | os.PathLike[str],
    target: Target,
    *,
    topology: str | os.PathLike[str] | None = None,
    selection: str | None = None,
    log_weight: Any = None,
    allow_virial_mismatch: bool = False,
) -> Dataset:
    """Reads frames of a target from .h5 (this package's format), .npy, .npz or a trajectory, centres them and checks them.

    A .npz holds the frames under "positions" or as its only array. Frames may be (n, N, D) or (n, N·D), in the target's units. Trajectories
    (XTC, DCD, TRR, NetCDF, LAMMPS, PDB, GRO, HDF5 of MDTraj; XYZ by ASE) have units of their own; their atoms are brought into the target's
    order by name, else by bonds, and their molecules are made whole. The provenance tells the outcome of the virial check, and what the
    correlated frames of a trajectory are worth.

    Frames that do not count alike, as of metadynamics, have log-weights: the array "log_weight" of a .npz, the entry `log_weight` of each
    frame of extended XYZ, the column of this name in HDF5, or the argument. They are up to a constant.

    Args:
        path: the file.
        target: the target that the frames should belong to.
        topology: file that tells the atoms of a trajectory which does not itself; None: they are the target's.
        selection: the target's atoms among those of a trajectory, in MDTraj's language; None: all.
        log_weight: log-weights of the frames (n,), or the name of a file of them (.npy, or one number a line); None: those in the file,
            else all count alike.
        allow_virial_mismatch: use frames that fail the virial check, as one may want for frames that are known to be slightly off.

    Returns:
        The data set, positions (n, N, D) float32. Mirror images of a chiral molecule are reflected, where they have the same energy.

    Raises:
        DataError: if the file is missing, cannot be read or is truncated, has another shape or fingerprint, holds NaN, clashes or other
            stereoisomers, has log-weights that are none, or fails the virial check.
    """
    path = files.named(path)
    if not path.is_file():
        raise DataError(f"there is no data file {path}; make one with `boltzflow reference`, or correct the path.")
    frames, known = _unchecked(path, target, topology, selection, log_weight)
    if known is not None and known.fingerprint != target.fingerprint:
        raise DataError(f"{path} holds frames of {known.fingerprint}, but the target is {target.fingerprint}; use one or the other.")
    return _checked(frames, target, str(path), allow_virial_mismatch, known)


class _Frames(NamedTuple):
    """Frames on their way into a data set: positions as they came, their log-weights, and where they come from."""

    positions: np.ndarray
    log_weight: np.ndarray | None
    provenance: dict[str, str | float | int]


def _unchecked(
    path: Path, target: Target, topology: str | os.PathLike[str] | None, selection: str | None, log_weight: Any
) -> tuple[_Frames, Dataset | None]:
    """What a file holds, and the data set that it is, if it is one of this package's."""
    provenance: dict[str, str | float | int] = {"source": path.name}
    known = None
    if is_trajectory(path):
        positions, stored = trajectories.read_weighted(path, target, topology=_text(topology), selection=selection)
        provenance["order"] = IN_TIME
    elif topology is not None or selection is not None:
        raise DataError(f"{path} is no trajectory; a topology or a selection would have no effect, leave them out.")
    elif path.suffix in (".npy", ".npz"):
        positions, stored = read_numpy(path)
    else:
        known = read(path)
        positions, stored, provenance = known.positions, known.log_weight, dict(known.provenance)
    if log_weight is not None:
        if stored is not None:
            raise DataError(f"{path} holds log-weights of its own; leave out the others, or the file's.")
        stored = frame_weights.given(log_weight)
        # Whatever was found out of these frames was so without weights.
        known = None if known is None else dataclasses.replace(known, log_weight=stored)
    return _Frames(positions, stored, provenance), known


def _text(name: str | os.PathLike[str] | None) -> str | None:
    return None if name is None else os.fspath(name)


def frames_in(
    path: str | os.PathLike[str],
    target: Target,
    *,
    topology: str | os.PathLike[str] | None = None,
    selection: str | None = None,
    log_weight: Any = None,
) -> Dataset:
    """The frames and weights that `load` would give, without the virial check.

    Args:
        path: a data set, an array or a trajectory.
        target: the target.
        topology: file with the atoms of a trajectory that has none; None: the target's.
        selection: MDTraj's words for the atoms to take; None: all.
        log_weight: as for `load`.

    Raises:
        DataError: as `load`.
    """
    path = files.named(path)
    frames, _ = _unchecked(path, target, topology, selection, log_weight)
    positions = _centred(frames.positions, target, str(path))[0]
    weight = frame_weights.checked(frames.log_weight, len(positions), str(path))
    return Dataset(positions, target.fingerprint, target.units, frames.provenance, log_weight=weight)


def _centred(positions: np.ndarray, target: Target, source: str) -> tuple[np.ndarray, int]:
    """Frames in the form that data sets keep, and how many of them had to be reflected."""
    positions = _as_frames(positions, target, source)
    _refuse_non_finite(positions, source)
    positions = np.asarray(positions, np.float64)
    positions = (positions - positions.mean(axis=1, keepdims=True)).astype(np.float32)
    return with_right_enantiomer(positions, target, source)


def of(frames: Any, target: Target, *, log_weight: Any = None, allow_virial_mismatch: bool = False) -> Dataset:
    """A data set of frames in whatever form they are.

    Args:
        frames: a `Dataset`; the result of `reference.sample`; the name of a file, as for `load`; an array (n, N, D) or (n, N·D) in the
            target's units; an MDTraj trajectory of the target's atoms; or `Samples`, of which those that have weight are taken, with it.
            Arrays, trajectories and samples are checked as files are.
        target: the target that the frames should belong to.
        log_weight: log-weights of the frames (n,), or a file of them, as for `load`; None: those that they have, else all count alike.
        allow_virial_mismatch: as for `load`.

    Raises:
        DataError: if they are none of these, or as for `load`.
    """
    frames = getattr(frames, "dataset", frames)
    if isinstance(frames, str | os.PathLike):
        return load(frames, target, log_weight=log_weight, allow_virial_mismatch=allow_virial_mismatch)
    if isinstance(frames, Dataset):
        if log_weight is not None:
            weight = frame_weights.checked(frame_weights.given(log_weight), frames.n, "the data set")
            frames = dataclasses.replace(frames, log_weight=weight)
        return checked(frames, target, allow_virial_mismatch=allow_virial_mismatch)
    given = array_of(frames, target)
    if log_weight is not None and given.log_weight is not None:
        raise DataError("samples have log-weights of their own; leave out the others.")
    weight = frame_weights.given(log_weight) if given.log_weight is None else given.log_weight
    provenance: dict[str, str | float | int] = {"source": given.source, **({"order": IN_TIME} if given.in_time else {})}
    return _checked(_Frames(given.positions, weight, provenance), target, given.source, allow_virial_mismatch)


def right_enantiomers(dataset: Dataset, target: Target) -> Dataset:
    """The data set with mirror images of a molecule of one enantiomer reflected, and with what the target knows of the molecule.

    Args:
        dataset: the data set.
        target: its target.

    Raises:
        DataError: if that cannot be, see `frames.with_right_enantiomer`, or it has other particles.
    """
    if dataset.fingerprint != target.fingerprint:
        raise DataError(
            f"the data set holds frames of {dataset.fingerprint}, but the target is {target.fingerprint}; use one or the other."
        )
    positions = _as_frames(np.asarray(dataset.positions), target, "the data set")
    _refuse_non_finite(positions, "the data set")
    positions, reflected = with_right_enantiomer(positions, target, "the data set")
    texts = molecule_folder.texts(target)
    if not reflected and (dataset.molecule or not texts["molecule"]):
        return dataset
    provenance = {**dataset.provenance, **({"reflected": reflected} if reflected else {})}
    energies = None if reflected else dataset.energies
    return dataclasses.replace(dataset, positions=positions, provenance=provenance, energies=energies, **texts)


def checked(dataset: Dataset, target: Target, *, allow_virial_mismatch: bool = False) -> Dataset:
    """The data set as `right_enantiomers` gives it, with the outcome of the virial check in its provenance and the energies of its frames.

    Where the frames carry the outcome already it is not computed again.

    Args:
        dataset: the data set.
        target: its target.
        allow_virial_mismatch: warn of a mismatch instead of refusing it.

    Raises:
        DataError: as `load`.
    """
    dataset = right_enantiomers(dataset, target)
    weight = frame_weights.checked(dataset.log_weight, dataset.n, "the data set")
    dataset = dataset if weight is dataset.log_weight else dataclasses.replace(dataset, log_weight=weight)
    if not target.has_energy or _remembered(dataset, target, allow_virial_mismatch):
        return dataset
    positions = np.asarray(_as_frames(np.asarray(dataset.positions), target, "the data set"), np.float64)
    centred = (positions - positions.mean(axis=1, keepdims=True)).astype(np.float32)
    outcome, energies = _virial(centred, target, "the data set", allow_virial_mismatch, dataset.log_weight)
    noted = {
        "virial_check": outcome.sentence(),
        MEMORY: memory_of(np.asarray(dataset.positions), target.fingerprint, outcome, dataset.log_weight),
    }
    return dataclasses.replace(dataset, provenance={**dataset.provenance, **noted}, energies=energies)


def checked_before(path: str | os.PathLike[str], target: Target) -> bool:
    """Whether a file knows the outcome of the virial check of its frames for this target, so that `load` computes no energies.

    Args:
        path: the file.
        target: the target.
    """
    return holds(path) and _remembered(read(path), target, allow_virial_mismatch=True)


def _remembered(dataset: Dataset, target: Target, allow_virial_mismatch: bool) -> bool:
    """Whether the outcome of the check of these very frames for this very target is known, and good enough."""
    how, _, frames = str(dataset.provenance.get(MEMORY, "")).partition(" ")
    if not (how == "passed" or (how == "failed" and allow_virial_mismatch)):
        return False
    return dataset.fingerprint == target.fingerprint and frames == memory_of(
        np.asarray(dataset.positions), target.fingerprint, log_weight=dataset.log_weight
    )


def _virial(
    positions: np.ndarray, target: Target, source: str, allow_virial_mismatch: bool, log_weight: np.ndarray | None
) -> tuple[VirialCheck, np.ndarray]:
    check, energies = check_with_energies(positions, target, log_weight)
    if not check.ok and not allow_virial_mismatch:
        raise DataError(
            f"{source} does not belong to target {target.name!r} ({target.fingerprint}): {check.sentence()[:-1]}"
            f"{_in_angstrom(positions, target, log_weight)}; use the right target (another epsilon, temperature or unit?), or allow the "
            "mismatch explicitly (data.allow_virial_mismatch=true; allow_virial_mismatch=True in Python)."
        )
    return check, energies


def _checked(frames: _Frames, target: Target, source: str, allow_virial_mismatch: bool, known: Dataset | None = None) -> Dataset:
    """The data set of frames that belong to a target, centred; what `load` promises.

    `known` is the data set as it was stored, which may carry the outcome of the check.
    """
    provenance = frames.provenance
    positions, reflected = _centred(frames.positions, target, source)
    weight = frame_weights.checked(frames.log_weight, len(positions), source)
    if reflected:
        provenance["reflected"] = reflected
    energies = None
    if target.has_energy and known is not None and not reflected and _remembered(known, target, allow_virial_mismatch):
        energies, how = known.energies, str(provenance[MEMORY]).partition(" ")[0]
        provenance[MEMORY] = f"{how} {memory_of(positions, target.fingerprint, log_weight=weight)}"
    elif target.has_energy:
        check, energies = _virial(positions, target, source, allow_virial_mismatch, weight)
        provenance["virial_check"] = check.sentence()
        provenance[MEMORY] = memory_of(positions, target.fingerprint, check, weight)
    if provenance.get("order") == IN_TIME and known is None:
        provenance.update(trajectories.worth(positions, energies, target))
    data = Dataset(positions, target.fingerprint, target.units, provenance, log_weight=weight, **molecule_folder.texts(target))
    return dataclasses.replace(data, energies=energies)


def _in_angstrom(positions: np.ndarray, target: Target, log_weight: np.ndarray | None) -> str:
    """A hint if frames that fail would be near passing as Ångström.

    Near is half the exact value: frames need not be converged for the hint, and bonds that are ten times too long miss by far more.
    """
    if target.units != "nm":
        return ""
    try:
        scaled = virial_check(0.1 * positions, target, log_weight=log_weight)
    except DataError:
        return ""
    if abs(scaled.value - scaled.expected) > max(0.5 * scaled.expected, scaled.tolerance):
        return ""
    return f" (divided by 10 the frames give {scaled.value:.4g}: they could be in Ångström, where nm are needed)"


def _as_frames(positions: np.ndarray, target: Target, source: str) -> np.ndarray:
    n, d = target.n_particles, target.dimension
    fits = positions.shape[1:] in ((n, d), (n * d,))
    if not fits or not np.issubdtype(positions.dtype, np.number) or np.iscomplexobj(positions):
        raise DataError(
            f"{source} holds an array of shape {positions.shape} and type {positions.dtype}, but target {target.name!r} needs frames of "
            f"shape (n, {n}, {d}) or (n, {n * d})."
        )
    if len(positions) == 0:
        raise DataError(f"{source} holds no frames.")
    return positions.reshape(-1, n, d)


def _refuse_non_finite(positions: np.ndarray, source: str) -> None:
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=(1, 2)))
    if len(bad):
        raise DataError(
            f"{source} has {len(bad)} frames with NaN or infinite positions out of {len(positions)}, the first at index {bad[0]}; "
            "remove them."
        )
