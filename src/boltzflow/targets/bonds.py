"""Which atoms of a molecule are bonded: the topology says it, else chemistry does; springs of a force field alone say nothing.

A force field has springs where there are no bonds (Urey-Bradley terms of CHARMM, elastic networks, restraints, the hydrogens of a rigid
water), and topologies lack bonds that are there (PDB files without CONECT records).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.targets._openmm import in_unit

# Covalent radii in nm: Cordero et al., Dalton Trans. 2008, doi:10.1039/b801115j; carbon is sp3.
COVALENT_RADII = {
    **{"H": 0.031, "B": 0.084, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "Si": 0.111, "P": 0.107, "S": 0.105, "Cl": 0.102},
    **{"Ge": 0.120, "As": 0.119, "Se": 0.120, "Br": 0.120, "Sn": 0.139, "Te": 0.138, "I": 0.139, "D": 0.031},
    **{"Mn": 0.139, "Fe": 0.132, "Co": 0.126, "Ni": 0.124, "Cu": 0.132, "Zn": 0.122, "Mo": 0.154, "Ru": 0.146, "Rh": 0.142, "Pd": 0.139},
    **{"Ag": 0.145, "Ir": 0.141, "Pt": 0.136, "Au": 0.136, "Hg": 0.132, "Al": 0.121, "Ti": 0.160, "V": 0.153, "Cr": 0.139},
}
# Lengths of bonds in units of the sum of their radii. Two neighbours of one atom are 1.4 (in rings of four) or more apart, and of atoms
# that nothing but their distance joins, the bridgeheads of bicyclopentane are 1.23.
_SHORTEST = 0.5
_LONGEST, _LONGEST_OF_SPRINGS, _LONGEST_STRAINED = 1.2, 1.3, 1.5


def find_bonds(
    system: Any, topology: Any, elements: Sequence[str], positions: Float[np.ndarray, "N 3"] | None
) -> tuple[tuple[int, int], ...]:
    """The bonds of a molecule.

    Those of the topology; springs between atoms that are, and want to be, as far apart as bonded atoms of these elements; and for atoms
    that are left without any, neighbours as near as bonded atoms. Ions (residues of one atom) have none.

    Args:
        system: the `openmm.System`.
        topology: the `openmm.app.Topology`.
        elements: element symbol of each atom.
        positions: a structure in nm, (N, 3); None: springs are judged by their rest lengths.

    Returns:
        Pairs (i, j), i < j, ascending.
    """
    pairs = topology_bonds(topology)
    reach = _reach(elements)
    distances = None if positions is None else np.linalg.norm(positions[:, None] - positions, axis=-1)
    for i, j, rest in springs(system):
        wanted = (rest, _LONGEST_OF_SPRINGS) if rest is not None else (None if distances is None else distances[i, j], _LONGEST)
        found = (None if distances is None else distances[i, j], _LONGEST_STRAINED)
        if wanted[0] is not None and all(_like_a_bond(length, reach[i, j], limit) for length, limit in (wanted, found)):
            pairs.add((min(i, j), max(i, j)))
    if distances is not None:
        alone = {next(residue.atoms()).index for residue in topology.residues() if sum(1 for _ in residue.atoms()) == 1}
        pairs |= _by_distance(distances, reach, elements, set(range(len(elements))) - {atom for pair in pairs for atom in pair} - alone)
    return tuple(sorted(pairs))


def topology_bonds(topology: Any) -> set[tuple[int, int]]:
    """The bonds that an OpenMM topology lists, as pairs (i, j), i < j."""
    return {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds()}


def springs(system: Any) -> Iterator[tuple[int, int, float | None]]:
    """Yields the pairs of atoms that forces of two atoms join, with the rest length in nm where there is one."""
    for force in system.getForces():
        kind = type(force).__name__
        if kind not in ("HarmonicBondForce", "CustomBondForce"):
            continue
        for bond in range(force.getNumBonds()):
            i, j, length, *_ = force.getBondParameters(bond)
            yield i, j, float(in_unit(length, "nanometer")) if kind == "HarmonicBondForce" else None


def missing_bonds(topology: Any, elements: Sequence[str], positions: Float[np.ndarray, "N 3"]) -> list[tuple[int, int]]:
    """Pairs of atoms as near as bonded ones that the topology does not join, and that have no neighbour in common."""
    there = topology_bonds(topology)
    partners: dict[int, set[int]] = {}
    for i, j in there:
        partners.setdefault(i, set()).add(j)
        partners.setdefault(j, set()).add(i)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    near = _by_distance(distances, _reach(elements), elements, set(range(len(elements))))
    return sorted(pair for pair in near - there if not partners.get(pair[0], set()) & partners.get(pair[1], set()))


def _by_distance(
    distances: Float[np.ndarray, "N N"], reach: Float[np.ndarray, "N N"], elements: Sequence[str], atoms: set[int]
) -> set[tuple[int, int]]:
    """Bonds of some atoms by their distances alone; a hydrogen has one, the shortest."""
    pairs: set[tuple[int, int]] = set()
    for i in sorted(atoms):
        near = np.flatnonzero((distances[i] <= _LONGEST * reach[i]) & (distances[i] >= _SHORTEST * reach[i]))
        near = near[near != i]
        if elements[i] in ("H", "D"):
            near = near[np.argsort(distances[i, near], kind="stable")][:1]
        pairs |= {(min(i, int(j)), max(i, int(j))) for j in near}
    # A hydrogen that another atom took for a neighbour keeps its nearest only.
    nearest = {i: int(np.argmin(distances[i] + np.where(np.arange(len(elements)) == i, np.inf, 0.0))) for i in range(len(elements))}
    return {(i, j) for i, j in pairs if all(elements[a] not in ("H", "D") or nearest[a] == b for a, b in ((i, j), (j, i)))}


def _reach(elements: Sequence[str]) -> Float[np.ndarray, "N N"]:
    """Sums of covalent radii; NaN for what is no atom that forms covalent bonds."""
    radii = np.array([COVALENT_RADII.get(element, np.nan) for element in elements])
    return radii[:, None] + radii


def _like_a_bond(length: float | None, reach: float, limit: float) -> bool:
    return length is None or _SHORTEST * reach <= length <= limit * reach
