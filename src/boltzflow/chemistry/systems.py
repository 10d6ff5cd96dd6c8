"""OpenMM systems of molecules: force fields by name, structures from files, missing hydrogens."""

import difflib
import io
import math
import os
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from boltzflow.chemistry.molecule_faults import why_no_system
from boltzflow.chemistry.openmm_systems import import_openmm, in_unit
from boltzflow.chemistry.pdb_text import with_own_names
from boltzflow.errors import TargetError, nearest

# Short names of force fields that publications used, and the files of OpenMM that they stand for.
FORCE_FIELDS = {
    "ff96": ("amber96.xml", "amber96_obc.xml"),
    "ff99": ("amber99sbildn.xml", "amber99_obc.xml"),
}
# Files of OpenMM that hold names and hydrogens, no parameters.
_NO_FORCE_FIELDS = {"residues.xml", "hydrogens.xml", "glycam-hydrogens.xml", "pdbNames.xml"}

ForceFieldName = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


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
            f"the force field {', '.join(files)} cannot be loaded: {first_line(error).rstrip('.')}; name files that OpenMM ships, such as "
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
    system = read_file(lambda: openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8")), path, "serialised OpenMM")
    if not isinstance(system, openmm.System):
        raise TargetError(f"{path} holds a {type(system).__name__}, not a System; serialise the system itself.")
    return system


def create_system(field: Any, topology: Any, positions: Any, force_field: ForceFieldName, cutoff: float | None = None) -> Any:
    """The system of a topology in open space, without constraints.

    Args:
        field: the `openmm.app.ForceField`.
        topology: the `openmm.app.Topology`.
        positions: its positions, to find out which hydrogens are missing.
        force_field: the force field's names, for messages.
        cutoff: in nm; None: none.

    Raises:
        TargetError: if the cut-off is not positive; names the first residue that the force field does not know, and says why.
    """
    options = pair_options(cutoff)
    try:
        return field.createSystem(topology, constraints=None, rigidWater=False, removeCMMotion=False, **options)
    except Exception as error:
        raise TargetError(why_no_system(field, topology, positions, label(force_field), error, add_hydrogens)) from error


def pair_options(cutoff: float | None) -> dict[str, Any]:
    """How OpenMM is told of a cut-off in open space.

    Args:
        cutoff: in nm, or a quantity; None: none.

    Raises:
        TargetError: if it is not a positive number.
    """
    app = import_openmm().app
    if cutoff is None:
        return {"nonbondedMethod": app.NoCutoff}
    distance = in_unit(cutoff, "nanometer")
    if not isinstance(distance, int | float) or not 0 < distance < math.inf:
        raise TargetError(f"the cut-off must be a positive number of nm, or None for none, got {cutoff}.")
    return {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": distance * import_openmm().unit.nanometer}


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
        raise TargetError(f"OpenMM cannot add hydrogens: {first_line(error)}") from error
    finally:
        random.setstate(state)
    return modeller.topology, modeller.positions


def read_structure(path: Path) -> Any:
    """The `openmm.app.PDBFile` or `PDBxFile` of a file, told apart by what it holds, with the names of atoms that the file gives.

    Raises:
        TargetError: if the file is missing, unreadable or empty.
    """
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

    structure = read_file(read, path, "PDB or mmCIF")
    if structure.topology.getNumAtoms() == 0:
        raise TargetError(f"{path} holds no atoms; give a PDB or mmCIF file.")
    return structure


def read_file(reader: Callable[[], Any], path: Path, kind: str) -> Any:
    """What a reader makes of a file.

    Raises:
        TargetError: if the file is missing, or the reader fails, with the first line of its reason.
    """
    if not path.is_file():
        raise TargetError(f"there is no file {path}; correct the path.")
    try:
        with warnings.catch_warnings():
            # Some of OpenMM's readers leave their files open.
            warnings.simplefilter("ignore", ResourceWarning)
            return reader()
    except Exception as error:
        raise TargetError(f"{path} is not a readable {kind} file ({first_line(error)}); check it, or make it again.") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
