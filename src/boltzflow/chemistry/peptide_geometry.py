"""Where the heavy atoms of a peptide lie: ideal bonds and angles, side chains by rules, rings closed by turning torsions."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from boltzflow.errors import TargetError

# Backbone before minimisation, in degrees: between the beta and polyproline basins.
_PHI, _PSI = -80.0, 80.0
_PHI_OF_PROLINE = -65.0
_CHI = -60.0

# One-letter code, residue, and the side chain's heavy atoms beyond CB: name, the three atoms (a, b, c) it is placed from, distance to c in
# Å, angle b-c-new and dihedral a-b-c-new in degrees. Averages of protein structures, rounded: minimisation follows. Of a D residue all
# dihedrals have the other sign.
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

Point = Float[np.ndarray, "... 3"]
Atoms = dict[str, Point]

# Of a disulfide bridge, in Å: the bond, and from the carbon of one side to the sulfur of the other.
_BRIDGE, _ACROSS = 2.04, 3.04
# Rings of fewer residues have cis bonds.
_SMALLEST_TRANS = 5
_STARTS = 40
# Of finite differences, in degrees.
_STEP = 1e-3
# In Å; minimisation mends what is left.
_CLOSED = 0.4
# Heavy atoms that nothing joins stay this far apart while a ring is closed.
_APART = 3.0


@dataclasses.dataclass(frozen=True)
class Residue:
    """An amino acid.

    Attributes:
        name: of three letters.
        left: whether it is L (or glycine); else D.
        side_chain: the atoms beyond CB, each with the three atoms it is placed from, length, angle and dihedral.
    """

    name: str
    left: bool
    side_chain: dict[str, tuple[str, ...]]

    @property
    def hand(self) -> float:
        """1 of L, -1 of D: the sign of its dihedrals."""
        return 1.0 if self.left else -1.0


def letters() -> dict[str, tuple[str, dict[str, tuple[str, ...]]]]:
    """Residue and rules of its side chain by one-letter code."""
    found: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {}
    for entry in _SIDE_CHAINS.replace(",\n", ",").strip().splitlines():
        letter, residue, *rest = entry.split(maxsplit=2)
        rules = [rule.split() for rule in "".join(rest).split(",") if rule.strip()]
        found[letter] = (residue, {atom: tuple(places) for atom, *places in rules})
    return found


class Torsions(NamedTuple):
    """Torsions of each residue in degrees, the last axis: phi, psi, omega of the bond before it, and chi of its CB."""

    phi: Float[np.ndarray, "... n"]
    psi: Float[np.ndarray, "... n"]
    omega: Float[np.ndarray, "... n"]
    chi: Float[np.ndarray, "... n"]


class Chain(NamedTuple):
    """Heavy atoms in Å: of the acetyl cap, of each residue, and of the N-methyl cap."""

    before: Atoms
    residues: list[Atoms]
    after: Atoms


def extended(residues: Sequence[Residue]) -> Torsions:
    """An extended backbone, of D residues the mirror image."""
    hands = np.array([residue.hand for residue in residues])
    return Torsions(_PHI * hands, _PSI * hands, np.full(len(hands), 180.0), _CHI * hands)


def place(residues: Sequence[Residue], torsions: Torsions, *, side_chains: bool = True, last_omega: Any = 180.0) -> Chain:
    """The heavy atoms of a chain between an acetyl and an N-methyl cap.

    Args:
        residues: the amino acids.
        torsions: theirs, of one chain or of many.
        side_chains: whether to place more than CB and, of cysteine, SG.
        last_omega: of the bond to the cap.
    """
    cap = {"CH3": np.zeros(3), "C": np.array([1.52, 0.0, 0.0])}
    cap["O"] = cap["C"] + 1.23 * np.array([np.cos(np.radians(59.6)), np.sin(np.radians(59.6)), 0.0])
    chain: list[Atoms] = []
    # The three atoms before the next nitrogen, and the dihedral that leads to it: opposite to the oxygen at first.
    before, turn = (cap["O"], cap["CH3"], cap["C"]), 180.0
    columns = (np.moveaxis(angles, -1, 0) for angles in torsions)
    for residue, phi, psi, omega, chi in zip(residues, *columns, strict=True):
        n = _place(*before, 1.335, 116.6, turn)
        ca = _place(before[1], before[2], n, 1.449, 121.9, omega)
        c = _place(before[2], n, ca, 1.522, 110.4, phi)
        atoms = {"N": n, "CA": ca}
        if residue.name != "GLY":
            # The sign of this dihedral makes the amino acid L.
            atoms["CB"] = _place(n, c, ca, 1.526, 109.5, 122.7 * residue.hand)
        for atom, (i, j, k, length, angle, dihedral) in residue.side_chain.items():
            turned = chi if atom == "SG" else float(dihedral) * residue.hand
            if side_chains or atom == "SG":
                atoms[atom] = _place(atoms[i], atoms[j], atoms[k], float(length), float(angle), turned)
        chain.append({**atoms, "C": c, "O": _place(n, ca, c, 1.23, 120.4, psi + 180.0)})
        before, turn = (n, ca, c), psi
    n = _place(*before, 1.335, 116.6, turn)
    # OpenMM's standard name for what Amber calls CH3.
    last = {"N": n, "C": _place(before[1], before[2], n, 1.449, 121.9, last_omega)}
    shape = (*np.shape(torsions.phi)[:-1], 3)

    def whole(atoms: Atoms) -> Atoms:
        """The first atoms are the same in all chains."""
        return {name: np.broadcast_to(x, shape) for name, x in atoms.items()}

    return Chain(whole(cap), [whole(atoms) for atoms in chain], whole(last))


def closed(residues: Sequence[Residue], bridges: Sequence[tuple[int, int]], *, cyclic: bool) -> tuple[Torsions, float]:
    """Torsions that close rings: sulfur atoms of bridges at a bond's length, and the ends of a cyclic peptide next to each other.

    Torsions are turned from many starts until all distances fit, the first fit is taken. Starts do not depend on anything but the
    residues.

    Args:
        residues: the amino acids.
        bridges: pairs of cysteines by their numbers from 0.
        cyclic: whether the last residue is bound to the first.

    Returns:
        The torsions, and omega of the bond that closes a cyclic peptide.

    Raises:
        TargetError: if no start leads to a closed ring.
    """
    from scipy.optimize import least_squares

    n, rng = len(residues), np.random.default_rng(0)
    hands = np.array([residue.hand for residue in residues])
    usual = np.array([_PHI_OF_PROLINE if residue.name == "PRO" else _PHI for residue in residues]) * hands
    # Rings of proline leave phi little freedom; others have some, and glycine has all.
    freedom = np.array([{"PRO": 5.0, "GLY": 1e3}.get(residue.name, 40.0) for residue in residues])
    cis = cyclic and n < _SMALLEST_TRANS
    apart = _unjoined(n, cyclic)

    def misfit(values: Float[np.ndarray, "... m"], omegas: Float[np.ndarray, " n"]) -> Float[np.ndarray, "... k"]:
        phi, psi, omega, chi = (values[..., i * n : (i + 1) * n] for i in range(4))
        chain = place(residues, Torsions(phi, psi, omega, chi), side_chains=False, last_omega=omega[..., 0])
        bent = [10.0 * _open(chain, bridges, cyclic), _turned(phi - usual) / freedom, _turned(omega - omegas) / 10.0]
        return np.concatenate([*bent, _clashes(chain, apart, bridges)], axis=-1)

    def slopes(values: Float[np.ndarray, " m"], omegas: Float[np.ndarray, " n"]) -> Float[np.ndarray, "k m"]:
        """Derivatives of the misfit by finite differences, all of them at once."""
        moved = misfit(np.concatenate([values[None], values + _STEP * np.eye(len(values))]), omegas)
        return (moved[1:] - moved[:1]).T / _STEP

    jacobian: Any = slopes  # which SciPy's stubs take for a word
    for start in range(_STARTS):
        # Of four residues trans and cis may take turns, in smaller rings all are cis.
        omegas = np.where(cis & ((n < 4) | (np.arange(n) % 2 == start % 2)), 0.0, 180.0)
        phi = usual + np.minimum(freedom, 60.0) * rng.standard_normal(n)
        psi, chi = rng.uniform(-180.0, 180.0, n), rng.choice([-60.0, 60.0, 180.0], n)
        fit = least_squares(misfit, np.concatenate([phi, psi, omegas, chi]), jacobian, args=(omegas,), max_nfev=60, x_scale=30.0)
        torsions = Torsions(*fit.x.reshape(4, n))
        last = float(torsions.omega[0])
        chain = place(residues, torsions, side_chains=False, last_omega=last)
        if np.abs(_open(chain, bridges, cyclic)).max() < _CLOSED and _clashes(chain, apart, bridges).max(initial=0.0) < 0.8:
            return torsions, last
    raise TargetError(
        "no shape of this peptide closes its ring: it is too short, or its bridges strain it too much; give a structure with from_pdb."
    )


def _turned(angles: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... n"]:
    return (angles + 180.0) % 360.0 - 180.0


def _open(chain: Chain, bridges: Sequence[tuple[int, int]], cyclic: bool) -> Float[np.ndarray, "... k"]:
    """How far the ends of rings are from where they should be, in Å."""
    batch = chain.residues[0]["N"].shape[:-1]
    found = [np.zeros((*batch, 1))]
    for i, j in bridges:
        one, other = chain.residues[i], chain.residues[j]
        for a, b, length in (("SG", "SG", _BRIDGE), ("CB", "SG", _ACROSS), ("SG", "CB", _ACROSS)):
            found.append(np.linalg.norm(one[a] - other[b], axis=-1, keepdims=True) - length)
    if cyclic:
        first, last = chain.residues[0], chain.residues[-1]
        found += [chain.after["N"] - first["N"], chain.after["C"] - first["CA"], chain.before["C"] - last["C"]]
    return np.concatenate(found, axis=-1)


def _unjoined(n: int, cyclic: bool) -> list[tuple[int, int]]:
    """Pairs of residues that are not neighbours."""
    return [(i, j) for j in range(n) for i in range(j - 1) if not (cyclic and j - i == n - 1)]


def _clashes(chain: Chain, apart: Sequence[tuple[int, int]], bridges: Sequence[tuple[int, int]]) -> Float[np.ndarray, "... k"]:
    """How much too near the atoms of residues are that are not neighbours, in Å."""
    found = []
    for i, j in apart:
        bridged = (i, j) in bridges or (j, i) in bridges
        one, other = (
            np.stack([x for name, x in chain.residues[k].items() if not (bridged and name in ("SG", "CB"))], axis=-2) for k in (i, j)
        )
        distances = np.linalg.norm(one[..., :, None, :] - other[..., None, :, :], axis=-1)
        found.append(np.maximum(_APART - distances, 0.0).reshape(*distances.shape[:-2], -1))
    batch = chain.residues[0]["N"].shape[:-1]
    return np.concatenate(found, axis=-1) if found else np.zeros((*batch, 0))


def _place(a: Point, b: Point, c: Point, length: float, angle: float, dihedral: Any) -> Point:
    """The point at a distance from c, an angle b-c-point and a dihedral a-b-c-point, in degrees."""
    theta, phi = np.radians(angle), np.radians(dihedral)[..., None]
    along = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    normal = np.cross(b - a, along)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    across = np.cross(normal, along)
    return c + length * (-np.cos(theta) * along + np.sin(theta) * (np.cos(phi) * across + np.sin(phi) * normal))
