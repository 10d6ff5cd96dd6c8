"""Small molecules from SMILES and RDKit: one molecule, all its hydrogens, a shape of the stereochemistry that is meant."""

import collections
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import extras
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.errors import TargetError

_SEED = 1
# What is left of clashes after the embedding goes here; minimisation by the force field follows.
_RELAXATION = 500


def import_rdkit() -> Any:
    """RDKit's module Chem.

    Raises:
        MissingExtraError: if it is not installed.
    """
    with extras.of("smiles", "a molecule from SMILES"):
        from rdkit import Chem
    return Chem


def prepared(molecule: Any) -> Any:
    """A molecule with all hydrogens and one conformer.

    Args:
        molecule: a SMILES, or RDKit's Mol; a conformer that it has is kept if it has all its hydrogens.

    Returns:
        RDKit's Mol.

    Raises:
        MissingExtraError: if RDKit is missing.
        TargetError: if the SMILES cannot be parsed, has several fragments, no element somewhere, stereo centres that
            it does not define, or no shape that can be built.
    """
    chem = import_rdkit()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        if isinstance(molecule, str):
            found, label = chem.MolFromSmiles(molecule), molecule
            if found is None or not found.GetNumAtoms():
                raise TargetError(f"the SMILES {molecule!r} cannot be parsed ({_why_not(chem, molecule)}); correct it.")
        elif isinstance(molecule, chem.Mol):
            found, label = chem.Mol(molecule), chem.MolToSmiles(molecule)
        else:
            raise TargetError(f"a molecule must be a SMILES or RDKit's Mol, got {type(molecule).__name__}.")
        whole = chem.AddHs(found, addCoords=found.GetNumConformers() > 0)
        _check(chem, whole, label)
        return whole if found.GetNumConformers() and found.GetConformer().Is3D() else _embedded(chem, whole, label)


def topology_of(molecule: Any) -> tuple[Any, Float[np.ndarray, "N 3"]]:
    """Topology and positions in nm of a prepared molecule: one residue MOL, its atoms numbered by element.

    Args:
        molecule: what `prepared` gives.

    Returns:
        An `openmm.app.Topology` and positions.
    """
    app = import_openmm().app
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain("A"), "1")
    counted: collections.Counter[str] = collections.Counter()
    atoms = []
    for atom in molecule.GetAtoms():
        counted[atom.GetSymbol()] += 1
        element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
        atoms.append(topology.addAtom(f"{atom.GetSymbol()}{counted[atom.GetSymbol()]}", element, residue))
    for bond in molecule.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    return topology, 0.1 * np.asarray(molecule.GetConformer().GetPositions(), np.float64)


def register_generator(field: Any, molecule: Any, name: str) -> None:
    """Lets openmmforcefields parametrise a molecule in an `openmm.app.ForceField`.

    Args:
        field: the force field.
        molecule: what `prepared` gives.
        name: such as "openff-2.2.0", "gaff-2.11" or "espaloma-0.3.2".

    Raises:
        TargetError: if openmmforcefields or the OpenFF toolkit are missing, or do not know the force field or the molecule.
    """
    try:
        from openff.toolkit import Molecule  # pyright: ignore[reportMissingImports]
        from openmmforcefields import generators  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TargetError(
            "small molecules are parametrised by openmmforcefields and the OpenFF toolkit, which are not both installed "
            f"({error}); install them with conda (openmmforcefields openff-toolkit), or name an OpenMM XML file that has the molecule as "
            "force field."
        ) from error
    kinds = {"gaff": "GAFFTemplateGenerator", "espaloma": "EspalomaTemplateGenerator"}
    maker = getattr(generators, kinds.get(name.partition("-")[0], "SMIRNOFFTemplateGenerator"))
    try:
        field.registerTemplateGenerator(maker(molecules=Molecule.from_rdkit(molecule), forcefield=name).generator)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise TargetError(
            f"openmmforcefields cannot parametrise the molecule by {name!r} ({reason}); choose another force field."
        ) from error


def _why_not(chem: Any, smiles: str) -> str:
    """What RDKit dislikes, found by switching off its chemistry."""
    lax = chem.MolFromSmiles(smiles, sanitize=False)
    if lax is None or not lax.GetNumAtoms():
        return "it is no SMILES"
    problems = chem.DetectChemistryProblems(lax)
    return problems[0].Message().rstrip(".") if problems else "RDKit refuses it"


def _check(chem: Any, molecule: Any, label: str) -> None:
    """Refuses what is not one molecule of known elements and stereochemistry."""
    fragments = chem.GetMolFrags(molecule, asMols=True)
    if len(fragments) > 1:
        names = ", ".join(chem.MolToSmiles(chem.RemoveHs(part)) for part in fragments)
        raise TargetError(
            f"{label!r} has {len(fragments)} fragments ({names}), and densities here are of one molecule; leave the others out."
        )
    unknown = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 0]
    if unknown:
        raise TargetError(f"atom {unknown[0] + 1} of {label!r} is no element; write which one it is.")
    for centre in chem.FindPotentialStereo(molecule):
        if centre.specified != chem.StereoSpecified.Unspecified:
            continue
        if centre.type == chem.StereoType.Bond_Double:
            bond = molecule.GetBondWithIdx(centre.centeredOn)
            ends = f"{_named(bond.GetBeginAtom())} and {_named(bond.GetEndAtom())}"
            raise TargetError(f"{label!r} leaves open whether the double bond of {ends} is E or Z; write it with / and \\.")
        raise TargetError(
            f"{label!r} does not define the stereo centre {_named(molecule.GetAtomWithIdx(centre.centeredOn))}; write @ or @@."
        )


def _named(atom: Any) -> str:
    return f"{atom.GetSymbol()} {atom.GetIdx() + 1}"


def _embedded(chem: Any, molecule: Any, label: str) -> Any:
    """The molecule with a conformer, the same one each time."""
    from rdkit.Chem import rdDistGeom as shapes
    from rdkit.Chem import rdForceFieldHelpers as fields

    if shapes.EmbedMolecule(molecule, randomSeed=_SEED) and shapes.EmbedMolecule(molecule, randomSeed=_SEED, useRandomCoords=True):
        raise TargetError(f"RDKit finds no shape of {label!r}; give an RDKit Mol with a conformer.")
    if fields.MMFFHasAllMoleculeParams(molecule):
        fields.MMFFOptimizeMolecule(molecule, maxIters=_RELAXATION)
    elif fields.UFFHasAllMoleculeParams(molecule):
        fields.UFFOptimizeMolecule(molecule, maxIters=_RELAXATION)
    return molecule
