"""Which atoms of a molecule are bonded: the topology says it, else chemistry does; springs of a force field alone say nothing.

A force field has springs where there are no bonds (Urey-Bradley terms of CHARMM, elastic networks, restraints, the hydrogens of a rigid
water), and topologies lack bonds that are there (PDB files without CONECT records).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry.openmm_systems import in_unit

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
    radii = radii_of(elements)
    for i, j, rest in springs(system):
        reach = radii[i] + radii[j]
        distance = None if positions is None else float(np.linalg.norm(positions[i] - positions[j]))
        wanted, limit = (distance, _LONGEST) if rest is None else (rest, _LONGEST_OF_SPRINGS)
        if (
            wanted is not None
            and _like_a_bond(wanted, reach, limit)
            and (distance is None or _like_a_bond(distance, reach, _LONGEST_STRAINED))
        ):
            pairs.add((min(i, j), max(i, j)))
    if positions is not None:
        alone = {next(residue.atoms()).index for residue in topology.residues() if sum(1 for _ in residue.atoms()) == 1}
        bare = set(range(len(elements))) - {atom for pair in pairs for atom in pair} - alone
        if bare:
            pairs |= {pair for pair in _by_distance(elements, positions) if bare & set(pair)}
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
    near = _by_distance(elements, positions)
    return sorted(pair for pair in near - there if not partners.get(pair[0], set()) & partners.get(pair[1], set()))


def radii_of(elements: Sequence[str]) -> Float[np.ndarray, " N"]:
    """Covalent radii in nm; NaN for what is no atom that forms covalent bonds."""
    return np.array([COVALENT_RADII.get(element, np.nan) for element in elements])


def _by_distance(elements: Sequence[str], positions: Float[np.ndarray, "N 3"]) -> set[tuple[int, int]]:
    """Bonds by distances alone; a hydrogen has one, the shortest."""
    from scipy.spatial import KDTree

    radii = radii_of(elements)
    found = KDTree(positions).query_pairs(2 * _LONGEST * max(COVALENT_RADII.values()), output_type="ndarray").reshape(-1, 2)
    lengths = np.linalg.norm(positions[found[:, 0]] - positions[found[:, 1]], axis=-1)
    reach = radii[found[:, 0]] + radii[found[:, 1]]
    bonded = (_SHORTEST * reach <= lengths) & (lengths <= _LONGEST * reach)
    pairs: set[tuple[int, int]] = set()
    taken: set[int] = set()
    # The shortest first, so that a hydrogen stays with its nearest neighbour.
    for i, j in found[bonded][np.argsort(lengths[bonded], kind="stable")].tolist():
        hydrogens = {atom for atom in (i, j) if elements[atom] in ("H", "D")}
        if not hydrogens & taken:
            pairs.add((min(i, j), max(i, j)))
            taken |= hydrogens
    return pairs


def _like_a_bond(length: float, reach: float, limit: float) -> bool:
    return bool(_SHORTEST * reach <= length <= limit * reach)
