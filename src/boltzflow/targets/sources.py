"""The target of a molecule as a configuration or the command line names it."""

from pathlib import Path
from typing import Any

from boltzflow.config.molecule import Molecule, kind_of
from boltzflow.errors import ConfigError
from boltzflow.targets.base import Target
from boltzflow.targets.molecule_files import from_amber, from_charmm, from_gromacs, from_pdb
from boltzflow.targets.peptides import peptide
from boltzflow.targets.small_molecules import from_smiles


def from_source(molecule: Molecule) -> Target:
    """Makes the target of a molecule.

    Args:
        molecule: the source and its options.

    Returns:
        The target, in nm.

    Raises:
        ConfigError: if an option is missing or does not belong to this kind of source.
        TargetError: if the molecule cannot be read or built, or the force field does not fit.
    """
    for name, problem in molecule.problems():
        raise ConfigError(f"molecule.{name} {problem}.")
    source, coordinates = molecule.source or "", str(molecule.coordinates)
    common: dict[str, Any] = {"temperature": molecule.temperature, "cutoff": molecule.cutoff}
    if molecule.energies is not None:
        common["energies"] = molecule.energies
    solvent = {"implicit_solvent": molecule.implicit_solvent}
    match kind_of(source):
        case "peptide":
            chosen = {"caps": molecule.caps, "ph": molecule.ph}
            given: dict[str, Any] = {option: value for option, value in chosen.items() if value is not None}
            sequence = source.partition(":")[2]
            return peptide(sequence, molecule.force_field, disulfides=molecule.bridges, **common, **given)
        case "smiles":
            parameters: dict[str, Any] = {"force_field": molecule.force_field, "small_molecules": molecule.small_molecules}
            return from_smiles(source.partition(":")[2], **parameters, **common)
        case "amber":
            return from_amber(source, coordinates, **solvent, **common)
        case "gromacs":
            return from_gromacs(source, coordinates, include=molecule.include, **common)
        case "charmm":
            return from_charmm(source, coordinates, molecule.parameters, **solvent, **common)
        case _:
            return from_pdb(Path(source), force_field=molecule.force_field, ph=molecule.ph, **common)
