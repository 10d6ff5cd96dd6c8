"""What a run is of, as far as any of its files tell: particles, units, temperature, atoms and bonds.

The target knows all of it, where it can be made again. That of a function or a calculator of the user's cannot; then the structure and
the fingerprint that data and samples carry say the same.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

KJ_PER_KCAL = 4.184

# Covalent radii in nm (Cordero et al., 2008, doi:10.1039/b801115j), for bonds that no file names.
_RADII = {
    **{"H": 0.031, "B": 0.084, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "Si": 0.111, "P": 0.107, "S": 0.105, "Cl": 0.102},
    **{"Br": 0.120, "I": 0.139, "Se": 0.120},
}
_UNKNOWN_RADIUS = 0.13
_TAIL = re.compile(r" N=(\d+) D=(\d+) \[(\w+)(?:, T=([\d.eE+-]+) K)?\]$")


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A system of particles.

    Attributes:
        n_particles: N.
        dimension: D.
        units: unit of length.
        temperature: in kelvin, None where there is none.
        classes: interchangeability class of each particle.
        elements: chemical symbol of each atom; empty where the particles are no atoms.
        names: a name of each atom that no other has; empty likewise.
        bonds: pairs of bonded atoms.
        topology: OpenMM's topology; None where there is none.
        chiral_centres: as the target names them.
    """

    n_particles: int
    dimension: int
    units: str
    temperature: float | None = None
    classes: tuple[int, ...] = ()
    elements: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    bonds: tuple[tuple[int, int], ...] = ()
    topology: Any = None
    chiral_centres: tuple[Any, ...] = ()

    @property
    def kilojoules(self) -> float | None:
        """One kT in kJ/mol; None without a temperature."""
        from boltzflow.targets.base import BOLTZMANN

        return None if self.temperature is None else BOLTZMANN * self.temperature

    def energy_in_words(self, kt: float) -> str:
        """An energy given in kT in kJ/mol and kcal/mol as well; empty without a temperature."""
        if self.kilojoules is None:
            return ""
        kilojoules = kt * self.kilojoules
        return f"{kilojoules:.3g} kJ/mol, {kilojoules / KJ_PER_KCAL:.3g} kcal/mol".replace("-", "−")

    @property
    def temperature_in_words(self) -> str:
        """The temperature and what a kT is there; empty where there is none."""
        if self.temperature is None or self.kilojoules is None:
            return ""
        return f"{self.temperature:g} K (1 kT = {self.kilojoules:.3f} kJ/mol = {self.kilojoules / KJ_PER_KCAL:.3f} kcal/mol)"


def describe(
    target: Any, structures: Iterable[str], fingerprints: Iterable[str], frames: Float[np.ndarray, "n N D"] | None
) -> System | None:
    """The system of a run, from its target if there is one, else from what data and samples carry; None where nothing is known.

    Args:
        target: the Target, or None.
        structures: PDB files of the molecule, empty ones for none; the first that fits is taken.
        fingerprints: fingerprints of the target as they are stored, likewise.
        frames: any configurations, for their shape, and for bonds that no file names.
    """
    if target is not None:
        return System(
            target.n_particles,
            target.dimension,
            target.units,
            target.temperature,
            tuple(target.classes),
            *_atoms(target.topology),
            bonds=tuple(target.bonds),
            topology=target.topology,
            chiral_centres=tuple(target.chiral_centres),
        )
    shape = None if frames is None else frames.shape[1:]
    facts = next((found for text in fingerprints if (found := _TAIL.search(text))), None)
    if facts is None and shape is None:
        return None
    n, dimension = (int(facts[1]), int(facts[2])) if facts is not None else (int(shape[0]), int(shape[1])) if shape is not None else (0, 0)
    units = facts[3] if facts is not None else "reduced"
    temperature = float(facts[4]) if facts is not None and facts[4] else None
    plain = System(n, dimension, units, temperature, (0,) * n)
    for text in structures:
        topology = _topology(text)
        if topology is not None and topology.getNumAtoms() == n:
            bonds = tuple((bond[0].index, bond[1].index) for bond in topology.bonds())
            return dataclasses.replace(plain, **_named(*_atoms(topology)), bonds=bonds, topology=topology)
    for text in fingerprints:
        symbols = re.findall("[A-Z][a-z]?", (re.findall(r"\bsymbols='(\w+)'", text) or [""])[0])
        if len(symbols) == n:
            elements = tuple(symbols)
            names = tuple(f"{symbol}{number}" for number, symbol in enumerate(elements, start=1))
            bonds = guessed_bonds(elements, frames) if units == "nm" and frames is not None else ()
            return dataclasses.replace(plain, **_named(elements, names), bonds=bonds)
    return plain


def _named(elements: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    kinds = sorted(set(elements))
    return {"elements": tuple(elements), "names": tuple(names), "classes": tuple(kinds.index(symbol) for symbol in elements)}


def _topology(structure: str) -> Any:
    """The topology in a PDB file; None where there is none, or OpenMM is not installed."""
    if not structure.strip():
        return None
    try:
        from openmm.app import PDBFile

        return PDBFile(io.StringIO(structure)).topology
    # A damaged structure costs the page the names of the atoms, not more.
    except Exception:
        return None


def _atoms(topology: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Elements and names of the atoms of a topology; names that two atoms share get the number of their residue, or of the atom."""
    if topology is None:
        return (), ()
    atoms = list(topology.atoms())
    elements = tuple(atom.element.symbol if atom.element is not None else "X" for atom in atoms)
    for names in ([atom.name for atom in atoms], [f"{atom.residue.name}{atom.residue.id} {atom.name}" for atom in atoms]):
        if len(set(names)) == len(names):
            return elements, tuple(names)
    return elements, tuple(f"{symbol}{number}" for number, symbol in enumerate(elements, start=1))


def guessed_bonds(elements: Sequence[str], frames: Float[np.ndarray, "n N 3"]) -> tuple[tuple[int, int], ...]:
    """Pairs of atoms that are as close as bonded ones in most frames; positions in nm."""
    some = np.asarray(frames[:200], np.float64)
    some = some[np.isfinite(some).all(axis=(1, 2))]
    if not len(some):
        return ()
    radii = np.array([_RADII.get(symbol, _UNKNOWN_RADIUS) for symbol in elements])
    first, second = np.triu_indices(len(elements), k=1)
    distances = np.median(np.linalg.norm(some[:, first] - some[:, second], axis=-1), axis=0)
    near = distances < 1.25 * (radii[first] + radii[second])
    return tuple((int(i), int(j)) for i, j in zip(first[near], second[near], strict=True))


def rotatable_torsions(elements: Sequence[str], bonds: Iterable[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """One torsion about each bond that the molecule can turn about, a-b-c-d with the atoms of least number that are heavy if possible.

    Left out are bonds in rings, bonds at the end of the molecule, and those that only turn a group of three equal hydrogens.
    """
    neighbours: dict[int, set[int]] = {atom: set() for atom in range(len(elements))}
    pairs = sorted({(min(pair), max(pair)) for pair in bonds})
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    found = []
    for b, c in pairs:
        ends = [sorted(neighbours[atom] - {other}, key=lambda end: (elements[end] == "H", end)) for atom, other in ((b, c), (c, b))]
        if not all(ends) or _joined(neighbours, b, c):
            continue
        if any(len(end) == 3 and all(elements[atom] == "H" for atom in end) for end in ends):
            continue
        found.append((ends[0][0], b, c, ends[1][0]))
    return found


def _joined(neighbours: dict[int, set[int]], b: int, c: int) -> bool:
    """Whether two bonded atoms are joined by another way than their bond, that is, lie in a ring."""
    seen, front = {b}, [b]
    while front:
        atom = front.pop()
        for other in neighbours[atom] - seen:
            if atom == b and other == c:
                continue
            if other == c:
                return True
            seen.add(other)
            front.append(other)
    return False
