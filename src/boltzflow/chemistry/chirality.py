"""Chiral centres of a molecule: which atoms are chiral, and which chirality they have in given positions."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from boltzflow.errors import TargetError

# Triple product of unit vectors below which a centre counts as flat; it is 0.77 for a regular tetrahedron.
_FLAT = 0.1


@dataclasses.dataclass(frozen=True)
class ChiralCentre:
    """An atom whose four neighbours can be told apart, so that it has a chirality.

    The sign is relative to the order of the atoms; it says which chirality the reference has, not R or S.

    Example:
        >>> bf.targets.ChiralCentre(atom=8, neighbours=(6, 9, 10, 14), sign=1).sign
        1

    Attributes:
        atom: index of the centre.
        neighbours: indices (a, b, c, d) of its four neighbours, ascending.
        sign: +1 or -1, the sign of the triple product (x_a - x_d) · ((x_b - x_d) × (x_c - x_d)) in the reference structure.
    """

    atom: int
    neighbours: tuple[int, int, int, int]
    sign: int


def adjacency(n_atoms: int, bonds: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Neighbours of every atom, ascending.

    Args:
        n_atoms: N.
        bonds: pairs of bonded atoms.
    """
    neighbours: list[set[int]] = [set() for _ in range(n_atoms)]
    for i, j in bonds:
        neighbours[i].add(j)
        neighbours[j].add(i)
    return [tuple(sorted(found)) for found in neighbours]


def stereocentres(elements: Sequence[str], bonds: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Atoms with four neighbours that are pairwise inequivalent.

    Two neighbours are equivalent if colour refinement (Weisfeiler and Lehman) cannot tell them apart, started at each of them in the
    molecular graph without the centre. Only elements and bonds count: centres that differ by the chirality of their branches alone, axial
    chirality, double bonds and pyramidal atoms with three neighbours are not found.

    Args:
        elements: element symbol of each atom.
        bonds: pairs of bonded atoms.

    Returns:
        Their indices, ascending.
    """
    neighbours = adjacency(len(elements), bonds)
    found = []
    for atom, around in enumerate(neighbours):
        # Two terminal atoms of one element are equivalent; this settles most atoms at once.
        terminal = [elements[other] for other in around if len(neighbours[other]) == 1]
        if len(around) == 4 and len(set(terminal)) == len(terminal) and len(set(alike_branches(elements, neighbours, atom))) == 4:
            found.append(atom)
    return tuple(found)


def find_chiral_centres(
    elements: Sequence[str], bonds: Sequence[tuple[int, int]], positions: Float[np.ndarray, "N 3"]
) -> tuple[ChiralCentre, ...]:
    """The chiral centres of a molecule with the chirality they have in a reference structure.

    Args:
        elements: element symbol of each atom.
        bonds: pairs of bonded atoms.
        positions: the reference structure, in any unit.

    Returns:
        The centres by ascending atom index; `stereocentres` says what is found.

    Raises:
        TargetError: if a centre is flat in the reference, so that its chirality is unknown.
    """
    neighbours = adjacency(len(elements), bonds)
    positions = np.asarray(positions, np.float64)
    centres = []
    for atom in stereocentres(elements, bonds):
        a, b, c, d = neighbours[atom]
        arms = positions[[a, b, c, d]] - positions[atom]
        arms /= np.linalg.norm(arms, axis=-1, keepdims=True)
        if not abs(_volume(arms)) > _FLAT:
            raise TargetError(
                f"atom {atom} ({elements[atom]}) is a chiral centre but lies flat among its neighbours {a}, {b}, {c} and {d}, so that its "
                "chirality is unknown; give a three-dimensional structure."
            )
        centres.append(ChiralCentre(atom, (a, b, c, d), int(np.sign(_volume(positions[[a, b, c, d]])))))
    return tuple(centres)


def chirality_signs(positions: Float[np.ndarray, "n N 3"], centres: Sequence[ChiralCentre]) -> Int[np.ndarray, "n centres"]:
    """The chirality of every chiral centre in every frame.

    Permuting interchangeable atoms and moving or rotating a frame leaves them as they are; a reflection turns them all.

    Args:
        positions: frames, in any unit.
        centres: the chiral centres.

    Returns:
        +1 where a centre has the chirality of the reference, -1 where it has the other, or where positions are not finite.
    """
    positions = np.asarray(positions, np.float64)
    found = np.empty((len(positions), len(centres)), np.int8)
    for column, centre in enumerate(centres):
        found[:, column] = np.where(_volume(positions[:, centre.neighbours, :]) * centre.sign > 0, 1, -1)
    return found


def _volume(corners: Float[np.ndarray, "... 4 3"]) -> Float[np.ndarray, "..."] | np.floating:
    """(x_a - x_d) · ((x_b - x_d) × (x_c - x_d))."""
    edges = corners[..., :3, :] - corners[..., 3:, :]
    return np.sum(edges[..., 0, :] * np.cross(edges[..., 1, :], edges[..., 2, :]), axis=-1)


def alike_branches(elements: Sequence[str], neighbours: Sequence[tuple[int, ...]], centre: int) -> list[tuple]:
    """For each neighbour of an atom what its branch looks like from there; equal for equivalent neighbours.

    The branches are refined side by side in copies of the graph without the centre, each with its own root, because colours mean the
    same only within one refinement. In a ring two neighbours share a branch, and each sees it from its own end.
    """
    names: dict[object, int] = {}

    def name(signature: object) -> int:
        return names.setdefault(signature, len(names))

    roots = neighbours[centre]
    branches = [_reached(neighbours, root, centre) for root in roots]
    colours = [{atom: name((elements[atom], atom == root)) for atom in branch} for root, branch in zip(roots, branches, strict=True)]
    n_colours = 0
    while n_colours < (n_colours := len({colour for copy in colours for colour in copy.values()})):
        colours = [
            {
                atom: name((colour, tuple(sorted(copy[other] for other in neighbours[atom] if other != centre))))
                for atom, colour in copy.items()
            }
            for copy in colours
        ]
    return [(copy[root], *sorted(Counter(copy.values()).items())) for root, copy in zip(roots, colours, strict=True)]


def _reached(neighbours: Sequence[tuple[int, ...]], root: int, centre: int) -> set[int]:
    """The atoms that can be reached from a root without passing a centre."""
    reached, todo = {root}, [root]
    while todo:
        for other in neighbours[todo.pop()]:
            if other != centre and other not in reached:
                reached.add(other)
                todo.append(other)
    return reached
