"""Frames in the trajectory formats of other programs, read by MDTraj and ASE and brought into the target's atoms and units."""

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from boltzflow.analysis import correlation, internal_coordinates
from boltzflow.analysis.internal_coordinates import backbones
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.chemistry import matching
from boltzflow.chemistry.chirality import adjacency
from boltzflow.chemistry.matching import Atoms
from boltzflow.datasets import frame_weights
from boltzflow.errors import DataError
from boltzflow.targets.base import Target

BY_ASE = (".xyz", ".extxyz")
"""Formats that ASE reads, in Ångström; atoms are known by their elements."""
WITH_ATOMS = (".pdb", ".gro", ".h5", ".hdf5")
"""Formats of MDTraj that tell their atoms."""
FORMATS = (".xtc", ".dcd", ".trr", ".nc", ".netcdf", ".mdcrd", ".lammpstrj", ".pdb", ".gro", *BY_ASE)
"""Endings of trajectories; MDTraj's HDF5 besides."""

_HDF5 = (".h5", ".hdf5")
# What MDTraj says where a topology does not fit.
_OTHER_ATOMS = "might not contain the same atoms"


def read(path: Path, target: Target, *, topology: str | None = None, selection: str | None = None) -> Float[np.ndarray, "n N 3"]:
    """The frames of a trajectory, its atoms in the target's order and its molecules whole, in the target's units; see `read_weighted`."""
    return read_weighted(path, target, topology=topology, selection=selection)[0]


def read_weighted(
    path: Path, target: Target, *, topology: str | None = None, selection: str | None = None
) -> tuple[Float[np.ndarray, "n N 3"], Float[np.ndarray, " n"] | None]:
    """The frames of a trajectory, its atoms in the target's order and its molecules whole, in the target's units, and their log-weights.

    These are in the entry `log_weight` of each frame of extended XYZ, and in the column of this name of MDTraj's HDF5; None where there are
    none.

    Args:
        path: the trajectory.
        target: a molecule.
        topology: file that tells the atoms of the trajectory; None: those of the trajectory itself, else the target's.
        selection: the atoms of the target among them, in MDTraj's language, such as "protein"; None: all.

    Raises:
        DataError: if a file cannot be read, the selection selects nothing, the atoms are not the target's, or MDTraj or ASE is not
            installed.
    """
    if target.units not in ("nm", "angstrom") or target.dimension != 3:
        raise DataError(f"{path} is a trajectory of atoms, but target {target.name!r} has {target.units} units; give .npy frames.")
    if path.suffix.lower() in BY_ASE:
        if topology is not None or selection is not None:
            raise DataError(f"{path} tells its atoms by their elements; a topology or a selection would have no effect, leave them out.")
        positions, box, atoms, weight = _with_ase(path)
    else:
        positions, box, atoms = _with_mdtraj(path, target, topology, selection)
        weight = _column(path) if path.suffix.lower() in _HDF5 else None
    wanted = atoms_of(target)
    if len(atoms.elements) != target.n_particles:
        raise DataError(
            f"{path} has {len(atoms.elements)} atoms, but target {target.name!r} has {target.n_particles}; select them (data.selection="
            "'protein', or selection= in Python), and name the file that tells them (data.topology) if the trajectory does not."
        )
    indices = matching.order(atoms, wanted)
    if indices is None:
        raise DataError(f"{path} holds another molecule than target {target.name!r}{_first_difference(atoms, wanted)}.")
    positions = positions[:, indices]
    if box is not None:
        positions = whole(positions, box, target.bonds)
    return positions if target.units == "nm" else 10.0 * positions, weight


def worth(positions: Float[np.ndarray, "n N 3"], energies: Float[np.ndarray, " n"] | None, target: Target) -> dict[str, float]:
    """What the frames of a trajectory are worth in independent ones, by some quantities: entries `ess_...` of the provenance.

    Args:
        positions: in the order of time.
        energies: reduced ones; None where there are none.
        target: what they are of.
    """
    x = np.asarray(positions, np.float64)
    series = {"radius_of_gyration": [radius_of_gyration(x)]}
    if energies is not None and np.isfinite(energies).all():
        series["energy"] = [energies]
    torsions = [] if target.topology is None else [atoms for residue in backbones(target.topology) for atoms in (residue.phi, residue.psi)]
    if torsions:
        angles = internal_coordinates.torsions(x, np.array(torsions, np.int64))
        series["torsions"] = [*np.sin(angles).T, *np.cos(angles).T]
    return {f"ess_{name}": min(len(x) / correlation.inefficiency(values) for values in parts) for name, parts in series.items()}


def atoms_of(target: Target) -> Atoms:
    """The atoms of a target."""
    names = [] if target.topology is None else [(atom.residue.index, atom.name) for atom in target.topology.atoms()]
    return Atoms(tuple(target.elements), tuple(names), tuple(target.bonds))


def _first_difference(atoms: Atoms, wanted: Atoms) -> str:
    index = matching.difference(atoms, wanted)
    if index is None:
        return ": the elements agree, but not the bonds between them"
    return f": its atom {index} is {atoms.elements[index]}, where the target has {wanted.elements[index]}, and no other order fits"


def whole(
    positions: Float[np.ndarray, "n N 3"], box: Float[np.ndarray, "n 3 3"], bonds: tuple[tuple[int, int], ...]
) -> Float[np.ndarray, "n N 3"]:
    """Frames without jumps over the box: each atom is the periodic copy nearest to its neighbour, each molecule that nearest to the first.

    Args:
        positions: the frames.
        box: vectors of the box of each, row by row.
        bonds: pairs of bonded atoms; without any, atoms are molecules.
    """
    found, inverse = positions.copy(), np.linalg.inv(box)

    def nearest(offset: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        return offset - np.einsum("ni,nij->nj", np.round(np.einsum("ni,nij->nj", offset, inverse)), box)

    neighbours, first, left = adjacency(positions.shape[1], bonds), None, set(range(positions.shape[1]))
    while left:
        start = min(left)
        left.discard(start)
        molecule, queue = [start], deque([start])
        while queue:
            atom = queue.popleft()
            for other in neighbours[atom]:
                if other in left:
                    left.discard(other)
                    found[:, other] = found[:, atom] + nearest(found[:, other] - found[:, atom])
                    molecule.append(other)
                    queue.append(other)
        centre = found[:, molecule].mean(axis=1)
        if first is None:
            first = centre
        else:
            found[:, molecule] += (first + nearest(centre - first) - centre)[:, None]
    return found


def _column(path: Path) -> np.ndarray | None:
    """The log-weights in MDTraj's HDF5."""
    with h5py.File(path) as file:
        frame_weights.refuse_others(file, str(path))
        return np.asarray(file[frame_weights.NAME], np.float64) if frame_weights.NAME in file else None


def _entries(frames: list[Any], path: Path) -> np.ndarray | None:
    """The log-weights in the entries of ASE's frames."""
    for frame in frames:
        frame_weights.refuse_others(frame.info, str(path))
    found = [frame.info.get(frame_weights.NAME) for frame in frames]
    missing = [index for index, value in enumerate(found) if value is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(found)} frames have no {frame_weights.NAME}, the first at index {missing[0]}; give "
            "all of them one, or none."
        )
    try:
        return np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: its entries {frame_weights.NAME} are no numbers ({error}); mend them.") from error


def _with_ase(path: Path) -> tuple[np.ndarray, np.ndarray | None, Atoms, np.ndarray | None]:
    try:
        import ase.io
    except ImportError as error:
        raise DataError(f"reading {path.suffix} needs the package ase; install boltzflow[xtb].") from error
    try:
        frames: Any = ase.io.read(path, index=":")
    except Exception as error:  # whatever a reader raises of a file that is none
        raise _unreadable(path, error) from error
    if not frames:
        raise DataError(f"{path} holds no frames.")
    symbols = tuple(frames[0].get_chemical_symbols())
    if any(tuple(frame.get_chemical_symbols()) != symbols for frame in frames):
        raise DataError(f"{path}: its frames are not of the same atoms; split it, one file for each molecule.")
    boxed = all(frame.pbc.all() and abs(frame.cell.volume) > 0 for frame in frames)
    box = 0.1 * np.array([frame.cell.array for frame in frames]) if boxed else None
    return 0.1 * np.array([frame.positions for frame in frames]), box, Atoms(symbols), _entries(frames, path)


def _with_mdtraj(path: Path, target: Target, topology: str | None, selection: str | None) -> tuple[np.ndarray, np.ndarray | None, Atoms]:
    try:
        import mdtraj
    except ImportError as error:
        raise DataError("reading trajectories needs the package mdtraj; install boltzflow[molecules].") from error
    carries = path.suffix.lower() in WITH_ATOMS
    if topology is not None and carries:
        raise DataError(f"{path} tells its atoms itself; the topology {topology} would have no effect, leave it out.")
    options: dict[str, Any] = {}
    if not carries:
        options["top"] = mdtraj.Topology.from_openmm(target.topology) if topology is None else _topology(mdtraj, Path(topology))
    try:
        with warnings.catch_warnings():
            # Advice about faster readers.
            warnings.simplefilter("ignore")
            read: Any = mdtraj.load(str(path), **options)
    except Exception as error:  # whatever a reader raises of a file that is none
        if topology is None and not carries and _OTHER_ATOMS in str(error):
            raise DataError(
                f"{path} has other atoms than target {target.name!r}, which has {target.n_particles}: name the file that tells them "
                "(data.topology), and select the target's (data.selection)."
            ) from error
        raise _unreadable(path, error) from error
    if selection is not None:
        read = read.atom_slice(_selected(read.topology, selection))
    box = None if read.unitcell_vectors is None else np.asarray(read.unitcell_vectors, np.float64)
    return np.asarray(read.xyz, np.float64), box, _atoms(read.topology)


def _topology(mdtraj: Any, path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"there is no topology {path}; correct the path.")
    try:
        return mdtraj.load_topology(str(path))
    except Exception as error:  # whatever a reader raises of a file that is none
        raise _unreadable(path, error) from error


def _selected(topology: Any, selection: str) -> np.ndarray:
    try:
        indices = topology.select(selection)
    except Exception as error:  # the parser's own
        raise DataError(f"MDTraj does not understand the selection {selection!r}; say it as in 'protein' or 'resname LIG'.") from error
    if not len(indices):
        raise DataError(f"the selection {selection!r} selects no atom; say it as in 'protein' or 'resname LIG'.")
    return indices


def _atoms(topology: Any) -> Atoms:
    atoms = list(topology.atoms)
    first = min((atom.residue.index for atom in atoms), default=0)
    elements = tuple(atom.element.symbol if atom.element is not None else "X" for atom in atoms)
    bonds = tuple((bond[0].index, bond[1].index) for bond in topology.bonds)
    return Atoms(elements, tuple((atom.residue.index - first, atom.name) for atom in atoms), bonds)


def _unreadable(path: Path, error: Exception) -> DataError:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return DataError(f"{path} cannot be read, or is cut off ({line}); make it again, or convert it to another format.")
