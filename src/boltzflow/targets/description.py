"""What a molecule is, in plain words: atoms, bonds, residues, classes and chirality as JSON, kept wherever its positions are stored.

A PDB file, which lies beside it for viewers, cannot say all of it: names have four characters and must differ within a residue, elements
have symbols, and the bonds between standard residues are those of a chain.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

from boltzflow.chemistry.chirality import ChiralCentre
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.errors import TargetError
from boltzflow.targets.base import Target

FORMAT = 1
_BOND_TYPES = ("Single", "Double", "Triple", "Aromatic", "Amide")


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a target without its energy.

    Attributes:
        name: name of the target.
        fingerprint: its fingerprint.
        units: unit of length.
        temperature: in kelvin, None in reduced units.
        n_particles: N.
        dimension: D.
        classes: interchangeability class of each particle.
        reflections: whether mirror images are equally probable.
        bonds: pairs of bonded particles.
        elements: element symbol of each atom; empty where particles are no atoms.
        chiral_centres: chiral atoms, and the chirality that is meant.
        residues: chains, residues, atoms and bonds of a topology, as `plain_topology` writes them; None where there is none.
    """

    name: str
    fingerprint: str
    units: str
    temperature: float | None
    n_particles: int
    dimension: int
    classes: tuple[int, ...]
    reflections: bool
    bonds: tuple[tuple[int, int], ...]
    elements: tuple[str, ...]
    chiral_centres: tuple[ChiralCentre, ...]
    residues: dict[str, Any] | None

    @functools.cached_property
    def topology(self) -> Any:
        """The `openmm.app.Topology`; None where there is none."""
        return None if self.residues is None else topology_of(self.residues)

    def to_json(self) -> str:
        """The description as JSON in one line; `read` is the way back."""
        plain = {**dataclasses.asdict(self), "format": FORMAT}
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of(target: Target) -> Description:
    """The description of a target."""
    return Description(
        name=target.name,
        fingerprint=target.fingerprint,
        units=target.units,
        temperature=None if target.temperature is None else float(target.temperature),
        n_particles=target.n_particles,
        dimension=target.dimension,
        classes=tuple(int(number) for number in target.classes),
        reflections=bool(target.reflections),
        bonds=_pairs(target.bonds),
        elements=tuple(target.elements),
        chiral_centres=target.chiral_centres,
        residues=None if target.topology is None else plain_topology(target.topology),
    )


def read(text: str) -> Description:
    """The description in a JSON text.

    Raises:
        TargetError: if it is damaged, or of a later version.
    """
    try:
        plain = json.loads(text)
        written = plain.pop("format")
        if written > FORMAT:
            raise TargetError(f"the description of the molecule has format {written}, this version reads up to {FORMAT}; update boltzflow.")
        centres = []
        for centre in plain["chiral_centres"]:
            first, second, third, fourth = map(int, centre["neighbours"])
            centres.append(ChiralCentre(int(centre["atom"]), (first, second, third, fourth), int(centre["sign"])))
        return Description(
            **{
                **plain,
                "classes": tuple(map(int, plain["classes"])),
                "bonds": _pairs(plain["bonds"]),
                "elements": tuple(plain["elements"]),
                "chiral_centres": tuple(centres),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TargetError("the description of the molecule is damaged; restore it, or make the file again.") from error


def plain_topology(topology: Any) -> dict[str, Any]:
    """Chains, residues, atoms and bonds of an OpenMM topology as plain lists.

    Returns:
        chains: ids. residues: (chain, name, id, insertion code). atoms: (residue, name, element symbol or None, id, formal charge or
        None). bonds: (i, j, type or None, order or None). Chains and residues are numbered from 0.
    """
    chains, residues = list(topology.chains()), list(topology.residues())
    return {
        "chains": [str(chain.id) for chain in chains],
        "residues": [[r.chain.index, r.name, str(r.id), r.insertionCode] for r in residues],
        "atoms": [
            [a.residue.index, a.name, None if a.element is None else a.element.symbol, str(a.id), getattr(a, "formalCharge", None)]
            for a in sorted(topology.atoms(), key=lambda atom: atom.index)
        ],
        "bonds": [[b[0].index, b[1].index, None if b.type is None else str(b.type), b.order] for b in topology.bonds()],
    }


def topology_of(plain: dict[str, Any]) -> Any:
    """The OpenMM topology of what `plain_topology` has written."""
    app = import_openmm().app
    topology = app.Topology()
    chains = [topology.addChain(name) for name in plain["chains"]]
    residues = [topology.addResidue(name, chains[chain], number, code) for chain, name, number, code in plain["residues"]]
    types = {name: getattr(app, name) for name in _BOND_TYPES}
    atoms = []
    for residue, name, symbol, number, charge in plain["atoms"]:
        element = None if symbol is None else app.Element.getBySymbol(symbol)
        atoms.append(topology.addAtom(name, element, residues[residue], number, **({} if charge is None else {"formalCharge": charge})))
    for i, j, kind, order in plain["bonds"]:
        topology.addBond(atoms[i], atoms[j], types.get(kind), order)
    return topology


def for_pdb(topology: Any, bonds: Sequence[tuple[int, int]]) -> Any:
    """A copy of a topology with names and numbers that a PDB file can hold: at most four characters, none empty, none twice.

    What fits is kept; an atom that must be renamed gets its element and a number.

    Args:
        topology: the OpenMM topology.
        bonds: the bonds of the copy.
    """
    plain = plain_topology(topology)
    used: dict[int, set[str]] = {}
    for residue, name, *_ in plain["atoms"]:
        used.setdefault(residue, set()).add(name)
    numbers = [(chain, number, code) for chain, _, number, code in plain["residues"]]
    fits = all(number.lstrip("-").isdigit() and len(number) < 5 and len(code) < 2 for _, number, code in numbers)
    renumber = not fits or len(set(numbers)) < len(numbers)
    for index, residue in enumerate(plain["residues"]):
        name = residue[1].strip()
        residue[1] = name if 0 < len(name) <= 3 and name.isascii() else (name.encode("ascii", "ignore").decode()[:3] or "UNK")
        if renumber:
            residue[2], residue[3] = str(index % 9999 + 1), ""
    taken: dict[int, set[str]] = {}
    for atom in plain["atoms"]:
        residue, name, symbol = atom[:3]
        there = taken.setdefault(residue, set())
        if not (0 < len(name) <= 4 and name.isascii() and not any(c.isspace() for c in name)) or name in there:
            start = symbol or "X"
            candidates = (f"{start}{k}" for k in range(1, 100_000))
            name = next(c for c in candidates if c not in there and c not in used[residue])
        there.add(name)
        atom[1] = name
    plain["bonds"] = [[i, j, None, None] for i, j in bonds]
    return topology_of(plain)


def _pairs(bonds: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(i), int(j)) for i, j in bonds)
