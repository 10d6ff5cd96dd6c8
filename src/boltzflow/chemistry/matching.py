"""Which atom of one list is which of another: by their names, else by the graph of their bonds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from boltzflow.chemistry.chirality import adjacency

# Steps of the search through the graph; molecules of thousands of atoms need about as many as they have atoms.
_MOST = 1_000_000


class Atoms(NamedTuple):
    """Atoms in some order.

    Attributes:
        elements: element symbol of each, "X" for what is none.
        names: number of its residue and its name; empty where there are none.
        bonds: pairs of bonded atoms; empty where they are not known.
    """

    elements: tuple[str, ...]
    names: tuple[tuple[int, str], ...] = ()
    bonds: tuple[tuple[int, int], ...] = ()


def order(there: Atoms, wanted: Atoms) -> Int[np.ndarray, " N"] | None:
    """Indices that bring the atoms into the order that is wanted; None where they are not the same atoms.

    Where neither names nor bonds tell, the order is taken as it is, if the elements agree.
    """
    if len(there.elements) != len(wanted.elements):
        return None
    by_name = _by_names(there, wanted)
    if by_name is not None:
        return by_name
    if there.bonds and wanted.bonds:
        return by_bonds(there, wanted)
    as_they_are = np.arange(len(wanted.elements))
    return as_they_are if _agree(there, wanted, as_they_are) else None


def difference(there: Atoms, wanted: Atoms) -> int | None:
    """The first atom that is another element; None if none is."""
    pairs = zip(there.elements, wanted.elements, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if not _same(a, b)), None)


def _same(a: str, b: str) -> bool:
    # Virtual sites and beads are X or VS in one, and anything in the other.
    return a == b or bool({a, b} & {"X", "VS"})


def _agree(there: Atoms, wanted: Atoms, indices: Int[np.ndarray, " N"]) -> bool:
    return all(_same(there.elements[index], element) for index, element in zip(indices, wanted.elements, strict=True))


def _by_names(there: Atoms, wanted: Atoms) -> Int[np.ndarray, " N"] | None:
    if not there.names or len(set(there.names)) < len(there.names) or Counter(there.names) != Counter(wanted.names):
        return None
    place = {name: index for index, name in enumerate(there.names)}
    found = np.array([place[name] for name in wanted.names])
    return found if _agree(there, wanted, found) else None


def by_bonds(there: Atoms, wanted: Atoms) -> Int[np.ndarray, " N"] | None:
    """An isomorphism of the graphs of elements and bonds; None where there is none.

    Atoms are coloured by refinement (Weisfeiler and Lehman) and then laid on one another, neighbours after neighbours, going back where
    that fails. Which of several equivalent hydrogens is which does not matter.
    """
    near_there, near_wanted = adjacency(len(there.elements), there.bonds), adjacency(len(wanted.elements), wanted.bonds)
    colours_there, colours_wanted = _colours([(there, near_there), (wanted, near_wanted)])
    if Counter(colours_there) != Counter(colours_wanted):
        return None
    candidates: dict[int, list[int]] = {}
    for index, colour in enumerate(colours_there):
        candidates.setdefault(colour, []).append(index)
    sequence = _sequence(near_wanted, colours_wanted)
    chosen: dict[int, int] = {}
    used: set[int] = set()
    choices = [iter(candidates[colours_wanted[sequence[0]]])] if sequence else []
    for _ in range(_MOST):
        if len(chosen) == len(sequence):
            return np.array([chosen[index] for index in range(len(sequence))], np.int64)
        if not choices:
            return None
        atom = sequence[len(choices) - 1]
        for other in choices[-1]:
            bonded = {chosen[near] for near in near_wanted[atom] if near in chosen}
            if other not in used and bonded == used & set(near_there[other]):
                chosen[atom] = other
                used.add(other)
                if len(choices) < len(sequence):
                    choices.append(iter(candidates[colours_wanted[sequence[len(choices)]]]))
                break
        else:
            choices.pop()
            if choices:
                used.discard(chosen.pop(sequence[len(choices) - 1]))
    return None


def _colours(graphs: Sequence[tuple[Atoms, list[tuple[int, ...]]]]) -> list[list[int]]:
    """Numbers that are the same where elements and neighbourhoods are, over all graphs."""
    found: list[list[Any]] = [["X" if element == "VS" else element for element in atoms.elements] for atoms, _ in graphs]
    kinds = -1
    while True:
        described = [
            [(colours[i], tuple(sorted(colours[j] for j in near[i]))) for i in range(len(colours))]
            for colours, (_, near) in zip(found, graphs, strict=True)
        ]
        numbers = {kind: number for number, kind in enumerate(sorted({kind for row in described for kind in row}, key=repr))}
        found = [[numbers[kind] for kind in row] for row in described]
        if len(numbers) == kinds:
            return found
        kinds = len(numbers)


def _sequence(near: Sequence[tuple[int, ...]], colours: Sequence[int]) -> list[int]:
    """Atoms so that each follows a neighbour, beginning with the rarest colour of each molecule."""
    rarity, found, seen = Counter(colours), [], set()
    for start in sorted(range(len(near)), key=lambda atom: rarity[colours[atom]]):
        left = [start] if start not in seen else []
        while left:
            atom = left.pop(0)
            if atom not in seen:
                seen.add(atom)
                found.append(atom)
                left += [other for other in near[atom] if other not in seen]
    return found
