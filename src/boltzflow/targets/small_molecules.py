"""Small molecules from SMILES or RDKit, with parameters from OpenMM's XML or from openmmforcefields."""

from typing import Any

from boltzflow.chemistry import small_molecules as chemistry
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.chemistry.systems import ForceFieldName, create_system, label, load_force_field
from boltzflow.config.molecule import Energies
from boltzflow.errors import TargetError
from boltzflow.targets.base import Target
from boltzflow.targets.molecules import from_openmm


def from_smiles(
    smiles: Any,
    *,
    temperature: Any,
    force_field: ForceFieldName = (),
    small_molecules: str | None = None,
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """Makes a target of a small molecule.

    RDKit adds hydrogens and builds a shape of the stereochemistry that the SMILES defines; the atoms are in the order of the SMILES, then
    hydrogens.

    Args:
        smiles: a SMILES, or RDKit's Mol, whose conformer is taken where it has one.
        temperature: in kelvin, or a quantity.
        force_field: files of OpenMM's force field that have the molecule as a residue, whatever its name, and those of an implicit solvent
            if there is to be one.
        small_molecules: a force field of openmmforcefields that parametrises the molecule, such as "openff-2.2.0" or "gaff-2.11"; None: the
            files in `force_field` have it.
        cutoff: of charges, Lennard-Jones and solvent, in nm, or a quantity; None: none.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
        name: a name for the fingerprint; None: the SMILES without hydrogens, as RDKit writes it.

    Returns:
        The target, in nm.

    Raises:
        MissingExtraError: if RDKit is missing.
        TargetError: if the SMILES cannot be parsed, has several fragments or leaves stereo centres undefined, the force
            field does not have the molecule, or for what `from_openmm` refuses.
    """
    if not force_field and small_molecules is None:
        raise TargetError(
            "a small molecule needs parameters: name OpenMM files that have it as force_field, or a force field of openmmforcefields as "
            "small_molecules, such as 'openff-2.2.0'."
        )
    molecule = chemistry.prepared(smiles)
    topology, positions = chemistry.topology_of(molecule)
    field = load_force_field(force_field) if force_field else import_openmm().app.ForceField()
    if small_molecules is not None:
        chemistry.register_generator(field, molecule, small_molecules)
    named = [*([small_molecules] if small_molecules else []), *([label(force_field)] if force_field else [])]
    system = create_system(field, topology, positions, force_field or (str(small_molecules),), cutoff)
    chem = chemistry.import_rdkit()
    return from_openmm(
        system,
        topology,
        temperature,
        positions=positions,
        name=name or chem.MolToSmiles(chem.RemoveHs(molecule)),
        parameters={"force_field": "+".join(named)},
        energies=energies,
    )
