"""Molecules from files: PDB with an OpenMM force field, Amber, and serialised OpenMM systems."""

import difflib
import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np

from boltzflow.errors import TargetError, nearest
from boltzflow.targets._openmm import import_openmm
from boltzflow.targets.base import Target
from boltzflow.targets.molecule_faults import check_scale, why_no_system
from boltzflow.targets.molecules import from_openmm
from boltzflow.targets.pdb_text import with_own_names

# Short names of force fields that publications used, and the files of OpenMM that they stand for.
FORCE_FIELDS = {
    "ff96": ("amber96.xml", "amber96_obc.xml"),
    "ff99": ("amber99sbildn.xml", "amber99_obc.xml"),
}
_IMPLICIT_SOLVENTS = ("HCT", "OBC1", "OBC2", "GBn", "GBn2")
# Files of OpenMM that hold names and hydrogens, no parameters.
_NO_FORCE_FIELDS = {"residues.xml", "hydrogens.xml", "glycam-hydrogens.xml", "pdbNames.xml"}

ForceFieldName = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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
    structure = _read_structure(path)
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
    parameters = _read(lambda: app.AmberPrmtopFile(str(prmtop)), prmtop, "Amber prmtop")
    coordinates = _read(lambda: app.AmberInpcrdFile(str(inpcrd)), inpcrd, "Amber inpcrd")
    try:
        system = parameters.createSystem(
            nonbondedMethod=app.NoCutoff,
            constraints=None,
            rigidWater=False,
            removeCMMotion=False,
            implicitSolvent=None if implicit_solvent is None else getattr(app, implicit_solvent),
        )
    except Exception as error:
        raise TargetError(f"OpenMM cannot make a system of {prmtop}: {_first_line(error)}") from error
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
    structure = _read_structure(topology_pdb)
    check_scale(topology_pdb, structure.topology, np.asarray(structure.getPositions(asNumpy=True)._value))
    about: dict[str, Any] = {"name": name or system_xml.stem, "parameters": parameters, "energies": energies}
    return from_openmm(system, structure.topology, temperature, positions=structure.positions, **about)


def label(force_field: ForceFieldName) -> str:
    """What the fingerprint says of a force field: its short name, or the names of its files without folder and ending."""
    files = [force_field] if isinstance(force_field, str | os.PathLike) else list(force_field)
    # Also the folders of a Windows path, so that a fingerprint does not depend on the machine.
    return "+".join(PureWindowsPath(os.fspath(name)).name.removesuffix(".xml") for name in files)


def load_force_field(force_field: ForceFieldName) -> Any:
    """The `openmm.app.ForceField` of a short name or of files.

    Raises:
        TargetError: if a file is unknown or unreadable.
    """
    app = import_openmm().app
    if isinstance(force_field, str):
        if force_field not in FORCE_FIELDS and not force_field.endswith(".xml"):
            near, files = nearest(force_field, FORCE_FIELDS), _files_like(force_field)
            if files and not near.startswith("did you mean"):
                near = f"did you mean {' or '.join(map(repr, files))}?"
            raise TargetError(
                f"there is no force field {force_field!r}; {near} Or name files of OpenMM, such as 'amber14-all.xml'; short names are "
                f"{' and '.join(FORCE_FIELDS)}."
            )
        force_field = FORCE_FIELDS.get(force_field, (force_field,))
    files = [os.fspath(name) for name in ([force_field] if isinstance(force_field, os.PathLike) else force_field)]
    if len(files) == 1:
        files = list(FORCE_FIELDS.get(files[0], files))
    if not files:
        raise TargetError("no force field is named; name files of OpenMM, such as ('amber14-all.xml', 'implicit/obc2.xml').")
    shipped = _shipped()
    for name in files:
        if name in FORCE_FIELDS:
            raise TargetError(f"the force field {name!r} is a short name, which stands alone; name the files {FORCE_FIELDS[name]} instead.")
        if name not in shipped and not Path(name).is_file():
            near = _files_like(name)
            hint = f"did you mean {' or '.join(repr(file) for file in near)}?" if near else "correct the path."
            raise TargetError(f"there is no force field file {name!r}, neither here nor among those of OpenMM; {hint}")
    try:
        return app.ForceField(*files)
    except Exception as error:
        raise TargetError(
            f"the force field {', '.join(files)} cannot be loaded: {_first_line(error).rstrip('.')}; name files that OpenMM ships, such as "
            "'amber14-all.xml', or the path of your own."
        ) from error


def _shipped() -> set[str]:
    """The force field files that come with OpenMM and its extensions, by the names under which it finds them."""
    forcefield = import_openmm().app.forcefield
    folders = {Path(forcefield.__file__).parent / "data", *map(Path, forcefield._getDataDirectories())}
    return {file.relative_to(folder).as_posix() for folder in folders for file in folder.rglob("*.xml")}


def _files_like(name: str) -> tuple[str, ...]:
    """The shipped files whose names are nearest to a name, with or without folder and ending."""
    known: dict[str, str] = {}
    for file in sorted(_shipped() - _NO_FORCE_FIELDS):
        for form in (file, file.removesuffix(".xml"), Path(file).name, Path(file).stem):
            known.setdefault(form.lower(), file)
    word = name.lower()
    near = [form for form in known if word and form.startswith(word)] + difflib.get_close_matches(word, known, n=6, cutoff=0.6)
    return tuple(dict.fromkeys(known[form] for form in near))[:3]


def read_system(path: Path) -> Any:
    """The `openmm.System` in a file of OpenMM's serialiser.

    Raises:
        TargetError: if the file is missing, unreadable or holds something else.
    """
    openmm = import_openmm()
    system = _read(lambda: openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8")), path, "serialised OpenMM")
    if not isinstance(system, openmm.System):
        raise TargetError(f"{path} holds a {type(system).__name__}, not a System; serialise the system itself.")
    return system


def create_system(field: Any, topology: Any, positions: Any, force_field: ForceFieldName) -> Any:
    """The system of a topology in open space, without constraints.

    Args:
        field: the `openmm.app.ForceField`.
        topology: the `openmm.app.Topology`.
        positions: its positions, to find out which hydrogens are missing.
        force_field: the force field's names, for messages.

    Raises:
        TargetError: names the first residue that the force field does not know, and says why.
    """
    app = import_openmm().app
    try:
        return field.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False)
    except Exception as error:
        raise TargetError(why_no_system(field, topology, positions, label(force_field), error, add_hydrogens)) from error


def add_hydrogens(topology: Any, positions: Any, ph: float) -> tuple[Any, Any]:
    """Adds missing hydrogens, the same ones at the same places each time.

    Returns:
        The new `openmm.app.Topology` and its positions.
    """
    openmm = import_openmm()
    modeller = openmm.app.Modeller(topology, positions)
    # Modeller places hydrogens at random before it relaxes them; the caller's random numbers stay as they are.
    state = random.getstate()
    random.seed(0)
    try:
        modeller.addHydrogens(pH=ph, platform=openmm.Platform.getPlatformByName("Reference"))
    except Exception as error:
        raise TargetError(f"OpenMM cannot add hydrogens: {_first_line(error)}") from error
    finally:
        random.setstate(state)
    return modeller.topology, modeller.positions


def _read_structure(path: Path) -> Any:
    app = import_openmm().app

    def read() -> Any:
        # OpenMM would leave the file open where it fails.
        text = path.read_text(encoding="utf-8")
        # Endings differ (.cif, .mmcif, .pdbx, .ent), but each block of an mmCIF file begins with "data_".
        first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
        if first.lower().startswith("data_"):
            return app.PDBxFile(io.StringIO(text))
        text, names = with_own_names(text)
        structure = app.PDBFile(io.StringIO(text))
        for atom in structure.topology.atoms():
            atom.name = names.get(atom.name, atom.name)
        return structure

    structure = _read(read, path, "PDB or mmCIF")
    if structure.topology.getNumAtoms() == 0:
        raise TargetError(f"{path} holds no atoms; give a PDB or mmCIF file.")
    return structure


def _read(reader: Callable[[], Any], path: Path, kind: str) -> Any:
    if not path.is_file():
        raise TargetError(f"there is no file {path}; correct the path.")
    try:
        return reader()
    except Exception as error:
        raise TargetError(f"{path} is not a readable {kind} file ({_first_line(error)}); check it, or make it again.") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
