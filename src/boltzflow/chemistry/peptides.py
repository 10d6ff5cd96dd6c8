"""Topologies of peptides and positions of their atoms, built from the sequence."""

from collections.abc import Collection, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry import peptide_geometry as geometry
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.chemistry.peptide_geometry import Residue
from boltzflow.chemistry.systems import add_hydrogens
from boltzflow.config.molecule import Caps
from boltzflow.errors import TargetError, nearest

PH = 7.0
# Hydrogens that OpenMM gives the first residue of a chain beside the one of an amide.
_OF_AMMONIUM = ("H2", "H3")
_NEUTRAL_BONDS = (1.25, 1.34)
_HYDROXYL = 0.97


def read_sequence(sequence: str) -> list[Residue]:
    """The amino acids of one-letter codes, of which small ones are D.

    Raises:
        TargetError: if a letter stands for no amino acid.
    """
    known = geometry.letters()
    unknown = sorted(set(sequence.upper()) - set(known))
    if unknown or not sequence:
        raise TargetError(
            f"the sequence {sequence!r} must be letters of {''.join(sorted(known))}, one for each residue and small for D amino acids"
            f"{f', and {unknown[0]!r} is none of them' if unknown else ''}."
        )
    # Glycine has no hand.
    return [Residue(known[letter.upper()][0], letter.isupper() or letter == "g", known[letter.upper()][1]) for letter in sequence]


def build_peptide(
    sequence: str, caps: Caps = "ace-nme", *, ph: float = PH, disulfides: Collection[tuple[int, int]] = ()
) -> tuple[Any, Float[np.ndarray, "N 3"]]:
    """Topology and positions in nm of a peptide of ideal bonds and angles: extended, or its rings closed.

    Args:
        sequence: one-letter codes, small ones for D amino acids.
        caps: "ace-nme" for acetyl and N-methyl caps, "zwitterion" for an ammonium and a carboxylate, "neutral" for an amine and a
            carboxylic acid, "cyclic" for a bond from the last residue to the first.
        ph: decides which side chains are protonated, as OpenMM's Modeller does; the ends are what `caps` says.
        disulfides: pairs of cysteines that are bound to each other, by their numbers from 1.

    Returns:
        An `openmm.app.Topology`, with residues ACE and NME at the ends where there are caps, and the positions.

    Raises:
        TargetError: if a letter stands for no amino acid, the caps are unknown, bridges do not join cysteines, or a ring cannot be closed.
    """
    openmm = import_openmm()
    residues = read_sequence(sequence)
    if caps not in get_args(Caps):
        raise TargetError(f"there are no caps {caps!r}; {nearest(str(caps), get_args(Caps))}")
    if caps == "cyclic" and len(residues) < 2:
        raise TargetError(f"a cyclic peptide has at least two residues, and {sequence!r} has one.")
    bridges = _bridges(sequence, residues, disulfides)
    topology, heavy = _heavy_atoms(residues, bridges, caps)
    quantity = [openmm.Vec3(*x) for x in heavy * 0.1] * openmm.unit.nanometer
    topology, quantity = add_hydrogens(topology, quantity, ph)
    positions = np.array(quantity.value_in_unit(openmm.unit.nanometer))
    if caps == "ace-nme":
        # The first hydrogen of the acetyl cap before its carbon, which is Amber's order and that of published frames.
        return _rebuilt(topology, positions, [1, 0, *range(2, topology.getNumAtoms())])
    if caps == "zwitterion":
        return topology, positions
    return _without_ammonium(topology, positions, acid=caps == "neutral")


def _bridges(sequence: str, residues: Sequence[Residue], disulfides: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of residues from 0, checked."""
    taken: set[int] = set()
    found = []
    for pair in disulfides:
        numbers = tuple(pair)
        if len(numbers) != 2 or not all(isinstance(number, int | np.integer) for number in numbers):
            raise TargetError(f"a disulfide bridge is a pair of residue numbers, such as (1, 6), got {pair!r}.")
        for number in numbers:
            if not 1 <= number <= len(residues) or residues[number - 1].name != "CYS":
                raise TargetError(f"a disulfide bridge joins cysteines, and residue {number} of {sequence!r} is none; count from 1.")
            if number in taken:
                raise TargetError(f"cysteine {number} of {sequence!r} is named twice in disulfides; it can have one bridge.")
            taken.add(number)
        found.append((int(min(numbers)) - 1, int(max(numbers)) - 1))
    return found


def _heavy_atoms(residues: Sequence[Residue], bridges: Sequence[tuple[int, int]], caps: str) -> tuple[Any, Float[np.ndarray, "N 3"]]:
    """Topology and positions in Å of all but the hydrogens, with all bonds."""
    app = import_openmm().app
    torsions, omega = geometry.extended(residues), 180.0
    if bridges or caps == "cyclic":
        torsions, omega = geometry.closed(residues, bridges, cyclic=caps == "cyclic")
    before, placed, after = geometry.place(residues, torsions, last_omega=omega)
    named = [(residue.name, atoms) for residue, atoms in zip(residues, placed, strict=True)]
    if caps == "ace-nme":
        named = [("ACE", before), *named, ("NME", after)]
    elif caps != "cyclic":
        # In place of the next nitrogen.
        carbon = named[-1][1]["C"]
        along = (after["N"] - carbon) / np.linalg.norm(after["N"] - carbon)
        named[-1] = (named[-1][0], {**named[-1][1], "OXT": carbon + _NEUTRAL_BONDS[caps == "neutral"] * along})
    topology, positions = app.Topology(), []
    chain = topology.addChain("A")
    for number, (name, atoms) in enumerate(named, start=1):
        residue = topology.addResidue(name, chain, str(number))
        for atom, x in atoms.items():
            topology.addAtom(atom, app.Element.getBySymbol(atom[0]), residue)
            positions.append(x)
    topology.createStandardBonds()
    built = [{atom.name: atom for atom in residue.atoms()} for residue in topology.residues()]
    shift = caps == "ace-nme"
    for i, j in bridges:
        topology.addBond(built[i + shift]["SG"], built[j + shift]["SG"])
    if caps == "cyclic":
        topology.addBond(built[-1]["C"], built[0]["N"])
    return topology, np.stack(positions)


def _without_ammonium(topology: Any, positions: Float[np.ndarray, "N 3"], *, acid: bool) -> tuple[Any, Float[np.ndarray, "M 3"]]:
    """The hydrogens taken that OpenMM gives each first residue: an amine keeps two, an amide one; the last residue of an acid gets one."""
    first = next(topology.residues())
    # Of proline these two are all that there are.
    gone = _OF_AMMONIUM[1:] if acid else _OF_AMMONIUM
    kept = [atom.index for atom in topology.atoms() if atom.residue is not first or atom.name not in gone]
    moved, x = _rebuilt(topology, positions, kept)
    if not acid:
        return moved, x
    last = {atom.name: atom for atom in list(moved.residues())[-1].atoms()}
    alpha, carbon, oxygen = (x[last[name].index] for name in ("CA", "C", "OXT"))
    # Trans to the alpha carbon, which is next to the other oxygen.
    along, side = oxygen - carbon, alpha - carbon
    along, side = along / np.linalg.norm(along), side - np.dot(side, along) / np.dot(along, along) * along
    away = -side / np.linalg.norm(side)
    hydrogen = oxygen + 0.1 * _HYDROXYL * (np.cos(np.radians(73.0)) * along + np.sin(np.radians(73.0)) * away)
    added = moved.addAtom("HXT", import_openmm().app.element.hydrogen, last["OXT"].residue)
    moved.addBond(last["OXT"], added)
    return moved, np.concatenate([x, hydrogen[None]])


def _rebuilt(topology: Any, positions: Float[np.ndarray, "N 3"], order: Sequence[int]) -> tuple[Any, Float[np.ndarray, "M 3"]]:
    """A topology of some of the atoms, in another order within their residues."""
    app = import_openmm().app
    atoms = list(topology.atoms())
    moved = app.Topology()
    chain = moved.addChain("A")
    residues = {residue: moved.addResidue(residue.name, chain, residue.id) for residue in topology.residues()}
    copies = {i: moved.addAtom(atoms[i].name, atoms[i].element, residues[atoms[i].residue]) for i in order}
    for first, second in topology.bonds():
        if first.index in copies and second.index in copies:
            moved.addBond(copies[first.index], copies[second.index])
    return moved, positions[list(order)]
