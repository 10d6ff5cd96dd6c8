"""Frames in the trajectory formats of other programs, read by MDTraj and ASE and brought into the target's atoms and units."""

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry import matching
from boltzflow.chemistry.chirality import adjacency
from boltzflow.chemistry.matching import Atoms
from boltzflow.errors import DataError
from boltzflow.targets.base import Target

BY_ASE = (".xyz", ".extxyz")
"""Formats that ASE reads, in Ångström; atoms are known by their elements."""
WITH_ATOMS = (".pdb", ".gro", ".h5", ".hdf5")
"""Formats of MDTraj that tell their atoms."""
FORMATS = (".xtc", ".dcd", ".trr", ".nc", ".netcdf", ".mdcrd", ".lammpstrj", ".pdb", ".gro", *BY_ASE)
"""Endings of trajectories; MDTraj's HDF5 besides."""

# What MDTraj says where a topology does not fit.
_OTHER_ATOMS = "might not contain the same atoms"


def read(path: Path, target: Target, *, topology: str | None = None, selection: str | None = None) -> Float[np.ndarray, "n N 3"]:
    """The frames of a trajectory, its atoms in the target's order and its molecules whole, in the target's units.

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
        positions, box, atoms = _with_ase(path)
    else:
        positions, box, atoms = _with_mdtraj(path, target, topology, selection)
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
    return positions if target.units == "nm" else 10.0 * positions


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


def _with_ase(path: Path) -> tuple[np.ndarray, np.ndarray | None, Atoms]:
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
    return 0.1 * np.array([frame.positions for frame in frames]), box, Atoms(symbols)


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
