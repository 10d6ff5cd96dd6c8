"""What chains are judged by: energy, radius of gyration, and the torsions of molecules, their slow coordinates."""

import numpy as np
from jaxtyping import Float

from boltzflow.analysis import internal_coordinates
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.chemistry.turning import torsions_about_turning_bonds
from boltzflow.targets.base import Target

# Torsions that are judged at most; of a larger molecule those that come first.
_MOST = 24


def observables(
    energy: Float[np.ndarray, "C K"], positions: Float[np.ndarray, "C K N D"], target: Target
) -> dict[str, Float[np.ndarray, "C K"]]:
    """Observables of C chains of K draws by name.

    Args:
        energy: reduced energies.
        positions: the draws.
        target: what they were drawn from.

    Returns:
        "energy", "radius_of_gyration", and sine and cosine of each torsion of `torsions_of`.
    """
    positions = np.asarray(positions, np.float64)
    found = {"energy": np.asarray(energy, np.float64), "radius_of_gyration": radius_of_gyration(positions)}
    for name, atoms in torsions_of(target).items():
        angle = internal_coordinates.torsions(positions, np.array([atoms]))[..., 0]
        found |= {f"sin_{name}": np.sin(angle), f"cos_{name}": np.cos(angle)}
    return found


def torsions_of(target: Target) -> dict[str, tuple[int, int, int, int]]:
    """The torsions about bonds that turn, by name: of a peptide phi and psi of its residues first.

    Left out are bonds of rings, amide bonds, which hardly turn (and have a check of their own), and those at an end of which no
    atom can be told from the others, such as the hydrogens of a methyl group: turned by a third, they look as before.
    """
    found: dict[str, tuple[int, int, int, int]] = {}
    if target.topology is not None:
        for residue in internal_coordinates.backbones(target.topology):
            found |= {f"phi_{residue.label}": residue.phi, f"psi_{residue.label}": residue.psi}
    if not target.bonds or not target.elements or target.dimension != 3:
        return found
    taken = {frozenset(atoms[1:3]) for atoms in found.values()}
    for atoms in torsions_about_turning_bonds(target.elements, target.bonds):
        if frozenset(atoms[1:3]) not in taken and len(found) < _MOST:
            found["torsion_" + "_".join(map(str, atoms))] = atoms
    return found
