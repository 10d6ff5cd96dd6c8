"""What is wrong with a molecule's file, in one sentence that says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.chemistry.bonds import missing_bonds, radii_of, topology_bonds
from boltzflow.chemistry.openmm_systems import in_unit
from boltzflow.errors import TargetError

_WATER = {"HOH", "WAT", "SOL", "TIP3", "TIP", "TP3", "TP4", "TIP4", "TIP5", "SPC", "SPCE", "H2O", "DOD", "OH2", "T3P", "T4P", "OPC"}
_IONS = {"Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Zn", "Fe", "Mn", "Co", "Ni", "Cu", "Cd", "Al", "F", "Cl", "Br", "I"}
# What bonds are multiplied by where numbers in these units are read as Ångström, and what to do.
_UNITS = {
    0.1: ("nm, where these files have Ångström", "multiply its coordinates by 10"),
    1 / 0.529177: ("bohr, where these files have Ångström", "multiply its coordinates by 0.529177"),
    100.0: ("pm, where these files have Ångström", "divide its coordinates by 100"),
}


def check_scale(path: Path, topology: Any, positions: Float[np.ndarray, "N 3"]) -> None:
    """Refuses a file whose coordinates are not in Ångström, by the lengths of its bonds.

    Raises:
        TargetError: says in which unit they seem to be.
    """
    n = len(positions)
    if n < 2 or not np.isfinite(positions).all():
        return
    from scipy.spatial import KDTree

    neighbours: Any = KDTree(positions).query(positions, k=2)[1]
    bonds = sorted(topology_bonds(topology)) or list(enumerate(neighbours[:, 1]))
    first, second = np.array(bonds).T
    radii = radii_of(["X" if atom.element is None else atom.element.symbol for atom in topology.atoms()])
    lengths = np.linalg.norm(positions[first] - positions[second], axis=-1)
    stretched = lengths / (radii[first] + radii[second])
    if not np.isfinite(stretched).any():
        return
    typical = float(np.median(stretched[np.isfinite(stretched)]))
    for factor, (unit, remedy) in _UNITS.items():
        # A bond is as long as its radii say, within some 15 %: units cannot be mistaken for each other.
        if 0.82 < typical / factor < 1.22:
            raise TargetError(
                f"the bonds in {path} would be {10 * float(np.median(lengths)):.3g} Å long, {typical:.2g} times what is usual: its "
                f"coordinates seem to be in {unit}; {remedy}."
            )


def why_no_system(
    field: Any, topology: Any, positions: Any, label: str, error: Exception, add_hydrogens: Callable[[Any, Any, float], tuple[Any, Any]]
) -> str:
    """Why a force field does not fit a topology.

    Args:
        field: the `openmm.app.ForceField`.
        topology: the `openmm.app.Topology`.
        positions: its positions, a quantity or in nm; None: unknown.
        label: what to call the force field.
        error: what OpenMM said.
        add_hydrogens: adds those that are missing at a pH.
    """
    unmatched = field.getUnmatchedResidues(topology)
    if not unmatched or "No template found" not in str(error):
        return f"the force field {label} cannot be applied: {_first_line(error)}"
    solvent = [residue for residue in topology.residues() if _is_water(residue) or _is_ion(residue)]
    rest = [residue for residue in unmatched if residue not in solvent]
    if not rest:
        return (
            f"the file holds {_counted(solvent)}, such as {_where(unmatched[0])}; densities here are of one molecule, in vacuum or in "
            "implicit solvent, so delete water and ions."
        )
    residue = rest[0]
    open_ends = _open_ends(field, topology, positions, residue, label)
    if open_ends:
        return open_ends
    try:
        complete, _ = add_hydrogens(topology, positions, 7.0)
        missing = len(list(list(complete.residues())[residue.index].atoms())) - len(list(residue.atoms()))
    except TargetError:
        missing = 0
    if missing > 0:
        return (
            f"{_where(residue)} lacks {missing} hydrogen{'s' if missing > 1 else ''}; add them, for example with from_pdb(..., ph=7), "
            "openmm.app.Modeller.addHydrogens or pdbfixer."
        )
    # OpenMM's message names the nearest residue and ends with a link; its middle is what helps.
    reason = _first_line(error).split("  For more information")[0].partition(").")[2].strip().split(".  ")[0].rstrip(".")
    reason = reason or _first_line(error)
    return f"the force field {label} does not know {_where(residue)}: {reason}; add a file that has it, or mend the structure."


def _open_ends(field: Any, topology: Any, positions: Any, residue: Any, label: str) -> str:
    """A sentence if atoms of a residue lie as near to others as bonded ones, but the file does not join them."""
    if positions is None:
        return ""
    atoms = list(topology.atoms())
    x = np.array([[float(value) for value in row] for row in in_unit(positions, "nanometer")])
    elements = ["X" if atom.element is None else atom.element.symbol for atom in atoms]
    here = {atom.index for atom in residue.atoms()}
    pairs = [pair for pair in missing_bonds(topology, elements, x) if here & set(pair)]
    if not pairs:
        return ""
    i, j = pairs[0]
    length = float(np.linalg.norm(x[i] - x[j]))
    if not any(here.issuperset(pair) for pair in topology_bonds(topology)):
        known = residue.name in {template.name for template in field._templates.values()}
        return (
            f"the force field {label} does not know {_where(residue)} without its bonds, which a PDB file must list in CONECT records "
            f"where residues are not standard ({atoms[i].name} and {atoms[j].name} lie {length:.3f} nm apart, and nothing joins them); add "
            f"them{'' if known else ', and a force field file that has this residue'}."
        )
    return (
        f"{_named(atoms[i])} and {_named(atoms[j])} lie {length:.3f} nm apart, as bonded atoms do, but the file does not join them, as it "
        "must for the bond that closes a ring, a bridge or a ligand; add CONECT records (struct_conn in mmCIF)."
    )


def _is_water(residue: Any) -> bool:
    symbols = sorted("X" if atom.element is None else atom.element.symbol for atom in residue.atoms())
    return residue.name.upper() in _WATER or symbols in (["H", "H", "O"], ["O"])


def _is_ion(residue: Any) -> bool:
    atoms = list(residue.atoms())
    return len(atoms) == 1 and atoms[0].element is not None and atoms[0].element.symbol in _IONS


def _counted(solvent: list[Any]) -> str:
    water = sum(map(_is_water, solvent))
    ions = len(solvent) - water
    return " and ".join(
        f"{number} {name}{'s' if number > 1 else ''}" for number, name in ((water, "water molecule"), (ions, "ion")) if number
    )


def _where(residue: Any) -> str:
    return f"residue {residue.name} {residue.id}{residue.insertionCode.strip()} of chain {residue.chain.id}"


def _named(atom: Any) -> str:
    return f"{atom.name} of {atom.residue.name} {atom.residue.id}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
