"""Bond lengths, angles and torsions of molecules, on the host; they take any leading axes."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from boltzflow.analysis.observables import checked


class Backbone(NamedTuple):
    """The two torsions of a residue that a Ramachandran plot shows.

    Example:
        >>> from boltzflow.analysis.internal_coordinates import Backbone
        >>> Backbone("ALA2", phi=(4, 6, 8, 14), psi=(6, 8, 14, 16)).phi
        (4, 6, 8, 14)

    Attributes:
        label: name and number of the residue.
        phi: atoms of phi, C-N-CA-C.
        psi: atoms of psi, N-CA-C-N.
    """

    label: str
    phi: tuple[int, int, int, int]
    psi: tuple[int, int, int, int]


def bond_lengths(positions: Float[np.ndarray, "*batch N 3"], pairs: Int[np.ndarray, "m 2"]) -> Float[np.ndarray, "*batch m"]:
    """Distances of pairs of atoms, in the units of the positions.

    Args:
        positions: (..., N, 3).
        pairs: (m, 2) numbers of atoms.
    """
    first, second = np.asarray(pairs).T
    positions = checked(positions)
    return np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)


def bond_angles(positions: Float[np.ndarray, "*batch N 3"], triples: Int[np.ndarray, "m 3"]) -> Float[np.ndarray, "*batch m"]:
    """Angles at the middle atoms of triples, in [0, pi].

    Args:
        positions: (..., N, 3).
        triples: (m, 3) numbers of atoms, the middle one second.
    """
    first, middle, last = np.asarray(triples).T
    positions = checked(positions)
    u, v = (positions[..., ends, :] - positions[..., middle, :] for ends in (first, last))
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), np.sum(u * v, axis=-1))


def torsions(positions: Float[np.ndarray, "*batch N 3"], quadruples: Int[np.ndarray, "m 4"]) -> Float[np.ndarray, "*batch m"]:
    """Torsion angles about the middle bonds of quadruples, in [-pi, pi], with the IUPAC sign.

    Args:
        positions: (..., N, 3).
        quadruples: (m, 4) numbers of atoms.
    """
    a, b, c, d = np.asarray(quadruples).T
    positions = checked(positions)
    before, axis, after = (positions[..., end, :] - positions[..., start, :] for start, end in ((a, b), (b, c), (c, d)))
    normal = np.cross(axis, after)
    y = np.linalg.norm(axis, axis=-1) * np.sum(before * normal, axis=-1)
    return np.arctan2(y, np.sum(np.cross(before, axis) * normal, axis=-1))


def angles_of_bonds(bonds: Any) -> Int[np.ndarray, "m 3"]:
    """Triples of atoms that two bonds join.

    Args:
        bonds: pairs of numbers of atoms.
    """
    neighbours: dict[int, list[int]] = {}
    for first, second in bonds:
        neighbours.setdefault(int(first), []).append(int(second))
        neighbours.setdefault(int(second), []).append(int(first))
    found = [
        (a, middle, c) for middle, ends in sorted(neighbours.items()) for i, a in enumerate(sorted(ends)) for c in sorted(ends)[i + 1 :]
    ]
    return np.array(found, np.int64).reshape(-1, 3)


def backbones(topology: Any) -> list[Backbone]:
    """Residues of an OpenMM topology that have both phi and psi, by the names of their atoms.

    Args:
        topology: an `openmm.app.Topology`.
    """
    found = []
    for chain in topology.chains():
        residues = list(chain.residues())
        atoms = [{atom.name: atom.index for atom in residue.atoms()} for residue in residues]
        for i in range(1, len(residues) - 1):
            before, own, after = atoms[i - 1], atoms[i], atoms[i + 1]
            if "C" in before and {"N", "CA", "C"} <= set(own) and "N" in after:
                n, ca, c = own["N"], own["CA"], own["C"]
                found.append(Backbone(f"{residues[i].name}{residues[i].id}", (before["C"], n, ca, c), (n, ca, c, after["N"])))
    return found
