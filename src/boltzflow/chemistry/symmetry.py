"""Symmetries of a molecule's energy: which atoms may change places, and whether mirror images weigh the same."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry.chirality import adjacency

# The energy of one configuration, (N, 3) -> scalar, in any unit.
Energy = Callable[[Float[np.ndarray, "N 3"]], float]

_FRAMES = 3
_NOISE = 0.05
# Far below what changes a probability.
_TOLERANCE = 1e-6


def interchangeable(
    elements: Sequence[str],
    bonds: Sequence[tuple[int, int]],
    energy: Energy | None = None,
    positions: Float[np.ndarray, "N 3"] | None = None,
    *,
    tolerance: float = _TOLERANCE,
) -> tuple[int, ...]:
    """Classes of atoms that may be permuted among themselves, one by one, without changing the energy.

    Those are atoms of one element that end at the same neighbour: the hydrogens of a methyl or an amino group, the oxygens of a
    carboxylate. Every other atom is a class of its own: equivalent groups, such as the two methyls of valine, may only be exchanged as
    a whole, which is not what a class says.

    Force fields break some of these symmetries: the improper dihedral of an Amber carboxylate depends on the order of its oxygens. With
    an energy each exchange is tried, and atoms that fail are separated.

    Args:
        elements: element symbol of each atom.
        bonds: pairs of bonded atoms.
        energy: energy of one configuration; None: the bonds alone decide.
        positions: a configuration without clashes to try exchanges in; needed with `energy`.
        tolerance: largest change of the energy by an exchange, in its unit: a large constant in it must not hide a difference. The
            default is meant for energies in kJ/mol or kT computed in float64.

    Returns:
        The class of each atom, numbered from 0 in the order of their first atoms.
    """
    neighbours = adjacency(len(elements), bonds)
    groups: dict[tuple[int, str], list[int]] = {}
    for atom, around in enumerate(neighbours):
        if len(around) == 1:
            groups.setdefault((around[0], elements[atom]), []).append(atom)
    leader = list(range(len(elements)))
    frames = _frames(positions) if energy is not None and positions is not None else []
    energies = [float(energy(frame)) for frame in frames] if energy is not None else []
    for group in groups.values():
        for rank, atom in enumerate(group[1:], start=1):
            # Exchanges with one partner generate all permutations, so that the first partner that passes is enough.
            for partner in group[:rank]:
                swapped = [_swap(frame, atom, partner) for frame in frames]
                if energy is None or all(
                    _agree(float(energy(frame)), before, tolerance) for frame, before in zip(swapped, energies, strict=True)
                ):
                    leader[atom] = leader[partner]
                    break
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(first, len(numbers)) for first in leader)


def mirror_symmetric(energy: Energy, positions: Float[np.ndarray, "N 3"], *, tolerance: float = _TOLERANCE) -> bool:
    """Whether mirror images have the same energy, tried in a few frames around a configuration.

    Args:
        energy: energy of one configuration.
        positions: a configuration without clashes.
        tolerance: largest change, as in `interchangeable`.
    """
    return all(_agree(float(energy(-frame)), float(energy(frame)), tolerance) for frame in _frames(positions))


def _frames(positions: Float[np.ndarray, "N 3"]) -> list[Float[np.ndarray, "N 3"]]:
    """Positions off their symmetric places, where two energies could agree by chance; the noise is relative to the atoms' distances."""
    positions = np.asarray(positions, np.float64)
    nearest = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(nearest, np.inf)
    noise = np.random.default_rng(0).standard_normal((_FRAMES, *positions.shape))
    return list(positions + _NOISE * float(np.median(nearest.min(axis=1))) * noise)


def _swap(frame: Float[np.ndarray, "N 3"], i: int, j: int) -> Float[np.ndarray, "N 3"]:
    swapped = frame.copy()
    swapped[[i, j]] = frame[[j, i]]
    return swapped


def _agree(after: float, before: float, tolerance: float) -> bool:
    # The rest is the rounding of sums in double precision.
    return abs(after - before) <= tolerance + 1e-9 * abs(before)
