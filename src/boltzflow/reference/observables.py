"""What chains are judged by: energy, radius of gyration, and the torsions of molecules, their slow coordinates."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import internal_coordinates
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.chemistry.chirality import adjacency, alike_branches
from boltzflow.targets.base import Target

# Torsions that are judged at most; of a larger molecule those that come first.
_MOST = 24


def observables(
    energy: Float[np.ndarray, "C K"], positions: Float[np.ndarray, "C K N D"], target: Target
) -> dict[str, Float[np.ndarray, "C K"]]:
    """Observables of C chains of K draws by name.

    Args:
        energy: reduced energies.
        positions: the draws.
        target: what they were drawn from.

    Returns:
        "energy", "radius_of_gyration", and sine and cosine of each torsion of `torsions_of`.
    """
    positions = np.asarray(positions, np.float64)
    found = {"energy": np.asarray(energy, np.float64), "radius_of_gyration": radius_of_gyration(positions)}
    for name, atoms in torsions_of(target).items():
        angle = internal_coordinates.torsions(positions, np.array([atoms]))[..., 0]
        found |= {f"sin_{name}": np.sin(angle), f"cos_{name}": np.cos(angle)}
    return found


def torsions_of(target: Target) -> dict[str, tuple[int, int, int, int]]:
    """The torsions about bonds that turn, by name: of a peptide phi and psi of its residues first.

    Left out are bonds of rings, amide bonds, which hardly turn (and have a check of their own), and those at an end of which no
    atom can be told from the others, such as the hydrogens of a methyl group: turned by a third, they look as before.
    """
    found: dict[str, tuple[int, int, int, int]] = {}
    if target.topology is not None:
        for residue in internal_coordinates.backbones(target.topology):
            found |= {f"phi_{residue.label}": residue.phi, f"psi_{residue.label}": residue.psi}
    if not target.bonds or not target.elements or target.dimension != 3:
        return found
    taken = {frozenset(atoms[1:3]) for atoms in found.values()}
    for atoms in _turning(target.elements, target.bonds):
        if frozenset(atoms[1:3]) not in taken and len(found) < _MOST:
            found["torsion_" + "_".join(map(str, atoms))] = atoms
    return found


def _turning(elements: tuple[str, ...], bonds: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int, int]]:
    neighbours = adjacency(len(elements), bonds)
    for b, c in bonds:
        if _is_amide(elements, neighbours, b, c) or _joined_otherwise(neighbours, b, c):
            continue
        a, d = (_told_apart(elements, neighbours, end, other) for end, other in ((b, c), (c, b)))
        if a is not None and d is not None:
            yield a, b, c, d


def _is_amide(elements: tuple[str, ...], neighbours: list[tuple[int, ...]], first: int, second: int) -> bool:
    """Whether a bond joins a nitrogen to a carbon with an oxygen at its end."""
    pairs = ((first, second), (second, first))
    return any(
        (elements[i], elements[j]) == ("C", "N") and any(elements[k] == "O" and len(neighbours[k]) == 1 for k in neighbours[i])
        for i, j in pairs
    )


def _joined_otherwise(neighbours: list[tuple[int, ...]], first: int, second: int) -> bool:
    """Whether there is another way between bonded atoms than their bond, so that this is in a ring."""
    reached, todo = {first}, [atom for atom in neighbours[first] if atom != second]
    while todo:
        atom = todo.pop()
        if atom == second:
            return True
        if atom not in reached:
            reached.add(atom)
            todo.extend(neighbours[atom])
    return False


def _told_apart(elements: tuple[str, ...], neighbours: list[tuple[int, ...]], end: int, other: int) -> int | None:
    """A neighbour of an end of a bond that is like none of the others: no hydrogen if there is a choice; None if there is none."""
    if len(neighbours[end]) < 2:
        return None
    kinds = alike_branches(elements, neighbours, end)
    own = {atom: kind for atom, kind in zip(neighbours[end], kinds, strict=True) if atom != other}
    unlike = [atom for atom, kind in own.items() if list(own.values()).count(kind) == 1]
    return min(unlike, key=lambda atom: (elements[atom] == "H", atom), default=None)
