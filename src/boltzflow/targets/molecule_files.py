"""Molecules from files: PDB with an OpenMM force field, Amber, GROMACS, CHARMM, and serialised OpenMM systems."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

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
    pair_options,
    read_file,
    read_structure,
    read_system,
)
from boltzflow.config.molecule import Energies, Solvent
from boltzflow.errors import TargetError, nearest
from boltzflow.targets.base import Target
from boltzflow.targets.molecules import from_openmm

_STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")


def from_pdb(
    path: str | Path,
    *,
    force_field: ForceFieldName,
    temperature: Any,
    ph: float | None = None,
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """Makes a target of a molecule in a PDB or mmCIF file and a force field of OpenMM.

    Args:
        path: the file; of several models the first is taken.
        force_field: names of OpenMM's force field files, such as ("amber14-all.xml", "implicit/obc2.xml"), paths of your own, or a short
            name: "ff96" (amber96 with OBC water) or "ff99" (amber99sbildn with OBC water).
        temperature: in kelvin, or a quantity.
        ph: add missing hydrogens as at this pH; None: the file must have them all.
        cutoff: of charges, Lennard-Jones and solvent, in nm, or a quantity; None: none.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
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
    system = create_system(field, topology, positions, force_field, cutoff)
    about: dict[str, Any] = {"name": name or path.stem, "parameters": {"force_field": label(force_field)}, "energies": energies}
    return from_openmm(system, topology, temperature, positions=positions, **about)


def from_amber(
    prmtop: str | Path,
    inpcrd: str | Path,
    *,
    temperature: Any,
    implicit_solvent: str | None = None,
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """Makes a target of a molecule in Amber's files.

    Args:
        prmtop: topology and parameters.
        inpcrd: coordinates.
        temperature: in kelvin, or a quantity.
        implicit_solvent: "HCT", "OBC1", "OBC2", "GBn" or "GBn2"; None: vacuum.
        cutoff: of charges, Lennard-Jones and solvent, in nm, or a quantity; None: none.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
        name: a name for the fingerprint; None: the prmtop's name without ending.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, the solvent is unknown, or for what `from_openmm` refuses.
    """
    app = import_openmm().app
    prmtop = Path(prmtop)
    solvent = _solvent(implicit_solvent)
    parameters = read_file(lambda: app.AmberPrmtopFile(str(prmtop)), prmtop, "Amber prmtop")
    about = {"implicit_solvent": implicit_solvent or "none"}
    return _from_parameters(parameters, prmtop, inpcrd, temperature, solvent, cutoff, energies, name, about)


def from_gromacs(
    top: str | Path,
    coordinates: str | Path,
    *,
    temperature: Any,
    include: str | Path | None = None,
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """Makes a target of a molecule in GROMACS' files, read by OpenMM.

    Args:
        top: topology and parameters (.top), of one molecule without solvent.
        coordinates: positions (.gro, or another file of coordinates).
        temperature: in kelvin, or a quantity.
        include: folder of the force fields that the topology includes; None: where GROMACS has put them.
        cutoff: of charges and Lennard-Jones, in nm, or a quantity; None: none.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
        name: a name for the fingerprint; None: the topology's name without ending.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, or for what `from_openmm` refuses.
    """
    app = import_openmm().app
    top = Path(top)
    options = {} if include is None else {"includeDir": str(include)}
    parameters = read_file(lambda: app.GromacsTopFile(str(top), **options), top, "GROMACS topology")
    return _from_parameters(parameters, top, coordinates, temperature, {}, cutoff, energies, name, {})


def from_charmm(
    psf: str | Path,
    coordinates: str | Path,
    parameters: Sequence[str | Path],
    *,
    temperature: Any,
    implicit_solvent: str | None = None,
    cutoff: Any = None,
    energies: Energies = "compiled",
    name: str | None = None,
) -> Target:
    """Makes a target of a molecule in CHARMM's files, read by OpenMM.

    Args:
        psf: topology.
        coordinates: positions (.crd, .pdb, or another file of coordinates).
        parameters: files of parameters (.prm, .rtf, .str).
        temperature: in kelvin, or a quantity.
        implicit_solvent: "HCT", "OBC1", "OBC2", "GBn" or "GBn2"; None: vacuum.
        cutoff: of charges, Lennard-Jones and solvent, in nm, or a quantity; None: none.
        energies: "compiled" to JAX or by "openmm", as for `from_openmm`.
        name: a name for the fingerprint; None: the psf's name without ending.

    Returns:
        The target, in nm.

    Raises:
        TargetError: if a file is missing or unreadable, a parameter is missing, the solvent is unknown, or for what `from_openmm` refuses.
    """
    app = import_openmm().app
    psf, files = Path(psf), [Path(file) for file in parameters]
    solvent = _solvent(implicit_solvent)
    topology = read_file(lambda: app.CharmmPsfFile(str(psf)), psf, "CHARMM psf")
    for file in files:
        read_file(lambda file=file: file.read_bytes(), file, "CHARMM parameter")
    try:
        known = app.CharmmParameterSet(*map(str, files))
    except Exception as error:
        raise TargetError(
            f"{', '.join(map(str, files))} cannot be read as CHARMM's parameters ({first_line(error)}); check them."
        ) from error
    about = {"implicit_solvent": implicit_solvent or "none"}
    return _from_parameters(topology, psf, coordinates, temperature, {"params": known, **solvent}, cutoff, energies, name, about)


def _solvent(name: str | None) -> dict[str, Any]:
    """How OpenMM's readers are told of an implicit solvent."""
    if name is not None and name not in get_args(Solvent):
        raise TargetError(f"there is no implicit solvent {name!r}; {nearest(name, get_args(Solvent))}")
    return {"implicitSolvent": None if name is None else getattr(import_openmm().app, name)}


def _from_parameters(
    parameters: Any,
    path: Path,
    coordinates: str | Path,
    temperature: Any,
    options: dict[str, Any],
    cutoff: Any,
    energies: Energies,
    name: str | None,
    about: dict[str, str],
) -> Target:
    """The target of what one of OpenMM's readers has made of a file that holds topology and parameters."""
    settings = {**options, **pair_options(cutoff)}
    positions = _coordinates(Path(coordinates))
    try:
        system = parameters.createSystem(**settings, constraints=None, rigidWater=False, removeCMMotion=False)
    except Exception as error:
        raise TargetError(f"OpenMM cannot make a system of {path}: {first_line(error)}") from error
    known: dict[str, Any] = {"name": name or path.stem, "parameters": about, "energies": energies}
    return from_openmm(system, parameters.topology, temperature, positions=positions, **known)


def _coordinates(path: Path) -> Any:
    """The positions in a file of coordinates, as a quantity."""
    app = import_openmm().app
    ending = path.suffix.lower()
    if ending in _STRUCTURES:
        return read_structure(path).positions
    readers = {".gro": app.GromacsGroFile, ".crd": app.CharmmCrdFile, ".cor": app.CharmmCrdFile}
    reader = readers.get(ending, app.AmberInpcrdFile)
    return read_file(lambda: reader(str(path)).positions, path, "coordinate")


def from_xml(
    system_xml: str | Path,
    topology_pdb: str | Path,
    *,
    temperature: Any,
    name: str | None = None,
    parameters: Mapping[str, float | int | str | bool] | None = None,
    energies: Energies = "compiled",
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
