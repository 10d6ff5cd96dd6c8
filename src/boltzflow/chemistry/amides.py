"""Amide bonds of a molecule, which are trans or cis, and cross over at high temperatures alone."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from boltzflow.chemistry.chirality import adjacency


def amide_torsions(elements: Sequence[str], bonds: Sequence[tuple[int, int]]) -> Int[np.ndarray, "m 4"]:
    """Torsions X-C-N-Y about the amide bonds that can be told to be trans or cis: near 180° where trans, near 0 where cis.

    An amide bond joins a carbon with a terminal oxygen to a nitrogen with three neighbours; X and Y are the carbons on both sides. Where
    there is none on one side (formamides, primary amides), or two (proline, dimethylamides), nothing is trans or cis by name.

    Args:
        elements: element symbol of each atom.
        bonds: pairs of bonded atoms.
    """
    if not elements:
        return np.zeros((0, 4), np.int64)
    neighbours = adjacency(len(elements), bonds)
    found = []
    for carbon, nitrogen in ((i, j) for pair in bonds for i, j in (pair, pair[::-1])):
        if (elements[carbon], elements[nitrogen], len(neighbours[nitrogen])) != ("C", "N", 3):
            continue
        if not any(elements[other] == "O" and len(neighbours[other]) == 1 for other in neighbours[carbon]):
            continue
        before = [other for other in neighbours[carbon] if elements[other] == "C"]
        after = [other for other in neighbours[nitrogen] if elements[other] == "C" and other != carbon]
        if len(before) == 1 and len(after) == 1:
            found.append((before[0], carbon, nitrogen, after[0]))
    return np.array(sorted(found), np.int64).reshape(-1, 4)
