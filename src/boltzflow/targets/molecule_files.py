"""Molecules from files: PDB with an OpenMM force field, Amber, and serialised OpenMM systems."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from boltzflow.chemistry.molecule_faults import check_scale
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.chemistry.systems import (
    ForceFieldName,
    add_hydrogens,
    create_system,
    first_line,
    label,
    load_force_field,
    read_file,
    read_structure,
    read_system,
)
from boltzflow.errors import TargetError, nearest
from boltzflow.targets.base import Target
from boltzflow.targets.molecules import from_openmm

_IMPLICIT_SOLVENTS = ("HCT", "OBC1", "OBC2", "GBn", "GBn2")


def from_pdb(
    path: str | Path, *, force_field: ForceFieldName, temperature: Any, ph: float | None = None, name: str | None = None
) -> Target:
    """Makes a target of a molecule in a PDB or mmCIF file and a force field of OpenMM.

    Args:
        path: the file; of several models the first is taken.
        force_field: names of OpenMM's force field files, such as ("amber14-all.xml", "implicit/obc2.xml"), paths of your own, or a short
            name: "ff96" (amber96 with OBC water) or "ff99" (amber99sbildn with OBC water).
        temperature: in kelvin, or a quantity.
        ph: add missing hydrogens as at this pH; None: the file must have them all.
        name: a name for the fingerprint; None: the file's name without ending.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, hydrogens are missing, the force field does not know a residue, or for what
            `from_openmm` refuses.
    """
    path = Path(path)
    structure = read_structure(path)
    topology, positions = structure.topology, structure.positions
    check_scale(path, topology, np.asarray(structure.getPositions(asNumpy=True)._value))
    field = load_force_field(force_field)
    if ph is not None:
        topology, positions = add_hydrogens(topology, positions, ph)
    system = create_system(field, topology, positions, force_field)
    parameters = {"force_field": label(force_field)}
    return from_openmm(system, topology, temperature, positions=positions, name=name or path.stem, parameters=parameters)


def from_amber(
    prmtop: str | Path, inpcrd: str | Path, *, temperature: Any, implicit_solvent: str | None = None, name: str | None = None
) -> Target:
    """Makes a target of a molecule in Amber's files.

    Args:
        prmtop: topology and parameters.
        inpcrd: coordinates.
        temperature: in kelvin, or a quantity.
        implicit_solvent: "HCT", "OBC1", "OBC2", "GBn" or "GBn2"; None: vacuum.
        name: a name for the fingerprint; None: the prmtop's name without ending.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, the solvent is unknown, or for what `from_openmm` refuses.
    """
    app = import_openmm().app
    if implicit_solvent is not None and implicit_solvent not in _IMPLICIT_SOLVENTS:
        raise TargetError(f"there is no implicit solvent {implicit_solvent!r}; {nearest(implicit_solvent, _IMPLICIT_SOLVENTS)}")
    prmtop, inpcrd = Path(prmtop), Path(inpcrd)
    parameters = read_file(lambda: app.AmberPrmtopFile(str(prmtop)), prmtop, "Amber prmtop")
    coordinates = read_file(lambda: app.AmberInpcrdFile(str(inpcrd)), inpcrd, "Amber inpcrd")
    try:
        system = parameters.createSystem(
            nonbondedMethod=app.NoCutoff,
            constraints=None,
            rigidWater=False,
            removeCMMotion=False,
            implicitSolvent=None if implicit_solvent is None else getattr(app, implicit_solvent),
        )
    except Exception as error:
        raise TargetError(f"OpenMM cannot make a system of {prmtop}: {first_line(error)}") from error
    return from_openmm(
        system,
        parameters.topology,
        temperature,
        positions=coordinates.positions,
        name=name or prmtop.stem,
        parameters={"implicit_solvent": implicit_solvent or "none"},
    )


def from_xml(
    system_xml: str | Path,
    topology_pdb: str | Path,
    *,
    temperature: Any,
    name: str | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
    energies: Literal["compiled", "openmm"] = "compiled",
) -> Target:
    """Makes a target of a serialised OpenMM system, whichever program made it.

    Args:
        system_xml: an `openmm.System` written by `openmm.XmlSerializer`.
        topology_pdb: a PDB or mmCIF file with the same atoms in the same order.
        temperature: in kelvin, or a quantity.
        name: a name for the fingerprint; None: the XML file's name without ending.
        parameters: what else belongs in the fingerprint.
        energies: "compiled" or "openmm", as for `from_openmm`.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, or for what `from_openmm` refuses.
    """
    system_xml, topology_pdb = Path(system_xml), Path(topology_pdb)
    system = read_system(system_xml)
    structure = read_structure(topology_pdb)
    check_scale(topology_pdb, structure.topology, np.asarray(structure.getPositions(asNumpy=True)._value))
    about: dict[str, Any] = {"name": name or system_xml.stem, "parameters": parameters, "energies": energies}
    return from_openmm(system, structure.topology, temperature, positions=structure.positions, **about)
