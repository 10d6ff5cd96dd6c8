"""Topologies of capped peptides and positions of their atoms, built from the sequence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.chemistry.systems import add_hydrogens
from boltzflow.errors import TargetError

# Backbone before minimisation, in degrees: between the beta and polyproline basins.
_PHI, _PSI, _OMEGA = -80.0, 80.0, 180.0
_PH = 7.0

# One-letter code, residue, and the side chain's heavy atoms beyond CB: name, the three atoms (a, b, c) it is placed from, distance to c in
# Å, angle b-c-new and dihedral a-b-c-new in degrees. Averages of protein structures, rounded: minimisation follows.
_SIDE_CHAINS = """
A ALA
R ARG  CG N CA CB 1.52 114 -60, CD CA CB CG 1.52 111 180, NE CB CG CD 1.46 112 180, CZ CG CD NE 1.33 124 180,
       NH1 CD NE CZ 1.33 120 0, NH2 CD NE CZ 1.33 120 180
N ASN  CG N CA CB 1.52 113 -60, OD1 CA CB CG 1.23 121 -30, ND2 CA CB CG 1.33 116 150
D ASP  CG N CA CB 1.52 113 -60, OD1 CA CB CG 1.25 118 -30, OD2 CA CB CG 1.25 118 150
C CYS  SG N CA CB 1.81 114 -60
Q GLN  CG N CA CB 1.52 114 -60, CD CA CB CG 1.52 113 180, OE1 CB CG CD 1.23 121 0, NE2 CB CG CD 1.33 116 180
E GLU  CG N CA CB 1.52 114 -60, CD CA CB CG 1.52 113 180, OE1 CB CG CD 1.25 118 0, OE2 CB CG CD 1.25 118 180
G GLY
H HIS  CG N CA CB 1.50 114 -60, ND1 CA CB CG 1.38 123 -70, CD2 CA CB CG 1.36 131 110, CE1 CB CG ND1 1.32 109 180,
       NE2 CB CG CD2 1.37 107 180
I ILE  CG1 N CA CB 1.53 111 -60, CG2 N CA CB 1.53 111 180, CD1 CA CB CG1 1.52 114 170
L LEU  CG N CA CB 1.53 116 -60, CD1 CA CB CG 1.52 110 180, CD2 CA CB CG 1.52 110 -60
K LYS  CG N CA CB 1.52 114 -60, CD CA CB CG 1.52 111 180, CE CB CG CD 1.52 111 180, NZ CG CD CE 1.49 111 180
M MET  CG N CA CB 1.52 114 -60, SD CA CB CG 1.81 113 180, CE CB CG SD 1.79 101 180
F PHE  CG N CA CB 1.51 114 -60, CD1 CA CB CG 1.39 121 90, CD2 CA CB CG 1.39 121 -90, CE1 CB CG CD1 1.39 120 180,
       CE2 CB CG CD2 1.39 120 180, CZ CG CD1 CE1 1.39 120 0
P PRO  CG N CA CB 1.49 104 30, CD CA CB CG 1.50 105 -35
S SER  OG N CA CB 1.41 111 -60
T THR  OG1 N CA CB 1.43 109 60, CG2 N CA CB 1.52 111 -60
W TRP  CG N CA CB 1.50 114 -60, CD1 CA CB CG 1.37 127 -90, CD2 CA CB CG 1.43 127 90, NE1 CB CG CD1 1.37 110 180,
       CE2 CB CG CD2 1.41 107 180, CE3 CB CG CD2 1.40 134 0, CZ2 CG CD2 CE2 1.39 122 180, CZ3 CG CD2 CE3 1.39 119 180,
       CH2 CD2 CE2 CZ2 1.37 118 0
Y TYR  CG N CA CB 1.51 114 -60, CD1 CA CB CG 1.39 121 90, CD2 CA CB CG 1.39 121 -90, CE1 CB CG CD1 1.39 120 180,
       CE2 CB CG CD2 1.39 120 180, CZ CG CD1 CE1 1.39 120 0, OH CD1 CE1 CZ 1.37 120 180
V VAL  CG1 N CA CB 1.53 111 180, CG2 N CA CB 1.53 111 -60
"""


def build_peptide(sequence: str) -> tuple[Any, Float[np.ndarray, "N 3"]]:
    """Topology and positions in nm of a capped peptide with an extended backbone of ideal geometry.

    Args:
        sequence: one-letter codes.

    Returns:
        An `openmm.app.Topology` with residues ACE, those of the sequence and NME, and the positions.

    Raises:
        TargetError: if a letter stands for no amino acid.
    """
    openmm = import_openmm()
    side_chains = _side_chains()
    unknown = sorted(set(sequence.upper()) - set(side_chains))
    if unknown or not sequence:
        raise TargetError(
            f"the sequence {sequence!r} must be letters of {''.join(sorted(side_chains))}, one for each residue between the caps"
            f"{f', and {unknown[0]!r} is none of them' if unknown else ''}."
        )
    residues = [("ACE", {}), *(side_chains[letter] for letter in sequence.upper()), ("NME", {})]
    chain = _backbone(residues)

    topology = openmm.app.Topology()
    parent = topology.addChain("A")
    heavy = []
    for number, (residue_name, atoms) in enumerate(chain, start=1):
        residue = topology.addResidue(residue_name, parent, str(number))
        for atom, x in atoms.items():
            topology.addAtom(atom, openmm.app.Element.getBySymbol(atom[0]), residue)
            heavy.append(x)
    topology.createStandardBonds()
    topology, quantity = add_hydrogens(topology, [openmm.Vec3(*x) for x in np.stack(heavy) * 0.1] * openmm.unit.nanometer, _PH)
    return _first_hydrogen_first(topology, np.array(quantity.value_in_unit(openmm.unit.nanometer)))


def _side_chains() -> dict[str, tuple[str, dict[str, tuple[str, ...]]]]:
    """Residue and rules of its side chain by one-letter code."""
    found: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {}
    for entry in _SIDE_CHAINS.replace(",\n", ",").strip().splitlines():
        letter, residue, *rest = entry.split(maxsplit=2)
        rules = [rule.split() for rule in "".join(rest).split(",") if rule.strip()]
        found[letter] = (residue, {atom: tuple(places) for atom, *places in rules})
    return found


def _backbone(residues: Sequence[tuple[str, dict[str, tuple[str, ...]]]]) -> list[tuple[str, dict[str, Float[np.ndarray, "3"]]]]:
    """Positions in Å of the heavy atoms of each residue, cap by cap."""
    cap = {"CH3": np.zeros(3), "C": np.array([1.52, 0.0, 0.0])}
    cap["O"] = cap["C"] + 1.23 * np.array([np.cos(np.radians(59.6)), np.sin(np.radians(59.6)), 0.0])
    chain = [("ACE", cap)]
    # The three atoms before the next nitrogen, and the dihedral that leads to it: opposite to the oxygen at first.
    before, turn = (cap["O"], cap["CH3"], cap["C"]), 180.0
    for residue, rules in residues[1:]:
        n = _place(*before, 1.335, 116.6, turn)
        ca = _place(before[1], before[2], n, 1.449, 121.9, _OMEGA)
        if residue == "NME":
            # OpenMM's standard name for what Amber calls CH3.
            chain.append((residue, {"N": n, "C": ca}))
            break
        c = _place(before[2], n, ca, 1.522, 110.4, _PHI)
        atoms = {"N": n, "CA": ca}
        if residue != "GLY":
            # The sign of this dihedral makes the amino acid L.
            atoms["CB"] = _place(n, c, ca, 1.526, 109.5, 122.7)
        for atom, (i, j, k, length, angle, dihedral) in rules.items():
            atoms[atom] = _place(atoms[i], atoms[j], atoms[k], float(length), float(angle), float(dihedral))
        chain.append((residue, {**atoms, "C": c, "O": _place(n, ca, c, 1.23, 120.4, _PSI + 180.0)}))
        before, turn = (n, ca, c), _PSI
    return chain


def _place(
    a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"], c: Float[np.ndarray, "3"], length: float, angle: float, dihedral: float
) -> Float[np.ndarray, "3"]:
    """The point at a distance from c, an angle b-c-point and a dihedral a-b-c-point, in degrees."""
    theta, phi = np.radians(angle), np.radians(dihedral)
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, along)
    return c + length * (-np.cos(theta) * along + np.sin(theta) * (np.cos(phi) * across + np.sin(phi) * normal))


def _first_hydrogen_first(topology: Any, positions: Float[np.ndarray, "N 3"]) -> tuple[Any, Float[np.ndarray, "N 3"]]:
    """Puts the first hydrogen of the acetyl cap before its carbon, which is Amber's order and that of published frames."""
    openmm = import_openmm()
    order = list(range(topology.getNumAtoms()))
    order[:2] = [1, 0]
    atoms = list(topology.atoms())
    moved, chain = openmm.app.Topology(), None
    chain = moved.addChain("A")
    residues = {residue: moved.addResidue(residue.name, chain, residue.id) for residue in topology.residues()}
    copies = {i: moved.addAtom(atoms[i].name, atoms[i].element, residues[atoms[i].residue]) for i in order}
    for first, second in topology.bonds():
        moved.addBond(copies[first.index], copies[second.index])
    return moved, positions[order]
