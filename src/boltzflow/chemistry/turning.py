"""Bonds that turn, and moves that turn one end of a molecule about such a bond.

Short steps along the forces take long to cross the barriers of torsions, which a turn by any angle jumps over. A turn leaves all bond
lengths, angles and chiral centres as they are, and all volumes, so that Metropolis' rule needs the energies alone (the pivot algorithm:
Lal, Mol. Phys. 17, 57 (1969); Madras and Sokal, J. Stat. Phys. 50, 109 (1988)).
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from boltzflow.chemistry.chirality import adjacency, alike_branches


class Turns(NamedTuple):
    """The bonds of a molecule about which one of its ends is turned.

    Attributes:
        axes: the two atoms of each bond, (B, 2).
        ends: which atoms turn, those on the smaller side of the bond, (B, N).
    """

    axes: Int[np.ndarray, "B 2"]
    ends: Bool[np.ndarray, "B N"]


def turns_of(elements: tuple[str, ...], bonds: tuple[tuple[int, int], ...]) -> Turns | None:
    """The turns of a molecule; None if nothing of it turns.

    Turned are the bonds of `torsions_about_turning_bonds` with an end that is no part of a double bond (four neighbours, or an oxygen or
    sulfur with two): a turn about a double bond would make another stereoisomer.

    Args:
        elements: symbol of each atom.
        bonds: pairs of atoms.
    """
    neighbours = adjacency(len(elements), bonds)
    axes = [
        (b, c)
        for _, b, c, _ in torsions_about_turning_bonds(elements, bonds)
        if any(_is_single(elements, neighbours, atom) for atom in (b, c))
    ]
    if not axes:
        return None
    ends = np.zeros((len(axes), len(elements)), bool)
    for row, (b, c) in enumerate(axes):
        beyond = _beyond(neighbours, b, c)
        ends[row, beyond if 2 * len(beyond) <= len(elements) else _beyond(neighbours, c, b)] = True
    return Turns(np.array(axes), ends)


def turned(turns: Turns, positions: Float[Array, "N D"], *, key: PRNGKeyArray) -> Float[Array, "N D"]:
    """A molecule one end of which is turned about a bond, both drawn at random; the way back is as probable.

    Args:
        turns: the bonds.
        positions: (N, 3).
        key: of the random numbers.
    """
    key_bond, key_angle = jax.random.split(key)
    bond = jax.random.randint(key_bond, (), 0, len(turns.axes))
    # All angles, the small ones more often, which are accepted where atoms are crowded.
    part = jax.random.uniform(key_angle, (), positions.dtype, minval=-1.0, maxval=1.0)
    angle = jnp.pi * part * jnp.abs(part)
    first, second = positions[jnp.asarray(turns.axes)[bond]]
    # Atoms in one place have no axis: what is not a number has no weight.
    axis = (second - first) / jnp.sqrt(jnp.sum((second - first) ** 2))
    relative = positions - second[None]
    along = jnp.sum(relative * axis[None], axis=-1, keepdims=True) * axis[None]
    across = relative - along
    moved = second[None] + along + jnp.cos(angle) * across + jnp.sin(angle) * jnp.cross(axis[None], across)
    return jnp.where(jnp.asarray(turns.ends)[bond][:, None], moved, positions)


def _is_single(elements: tuple[str, ...], neighbours: list[tuple[int, ...]], atom: int) -> bool:
    """Whether an atom has single bonds alone."""
    count = len(neighbours[atom])
    return count >= 4 or (count == 2 and elements[atom] in ("O", "S", "Se"))


def _beyond(neighbours: list[tuple[int, ...]], first: int, second: int) -> list[int]:
    """The atoms on the side of the second atom of a bond that is in no ring, that atom among them."""
    reached, todo = {first, second}, [second]
    while todo:
        for atom in neighbours[todo.pop()]:
            if atom not in reached:
                reached.add(atom)
                todo.append(atom)
    return sorted(reached - {first})


def torsions_about_turning_bonds(elements: tuple[str, ...], bonds: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int, int, int]]:
    """A torsion for each bond that turns.

    Left out are bonds of rings, amide bonds, and those at an end of which no atom can be told from the others.

    Args:
        elements: symbol of each atom.
        bonds: pairs of atoms.
    """
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
