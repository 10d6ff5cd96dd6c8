"""A molecule kept in a folder, so that a run can be taken up, moved and shared without the files that it was made from."""

import json
from pathlib import Path

import numpy as np

from boltzflow import files
from boltzflow.errors import TargetError
from boltzflow.targets._openmm import import_openmm
from boltzflow.targets.base import Target
from boltzflow.targets.molecule_files import from_xml

DESCRIPTION, SYSTEM, STRUCTURE = "molecule.json", "system.xml", "structure.pdb"
_HASH = "system"


def holds(folder: Path) -> bool:
    """Whether a folder holds a molecule."""
    return (folder / DESCRIPTION).is_file()


def save(target: Target, folder: Path) -> None:
    """Writes the system, a structure and what else makes up a target of a molecule; nothing for other targets.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not target.system or holds(folder):
        return
    import io

    app = import_openmm().app
    structure = io.StringIO()
    # OpenMM's PDB files are in Ångström and take plain numbers as such.
    app.PDBFile.writeFile(target.topology, 10.0 * np.asarray(target.structure), structure, keepIds=True)
    files.replace(folder / SYSTEM, target.system.encode())
    files.replace(folder / STRUCTURE, structure.getvalue().encode())
    about = {
        "name": target.name,
        "temperature": target.temperature,
        "energies": target.energies_by,
        "parameters": {key: value for key, value in target.parameters.items() if key != _HASH},
        "fingerprint": target.fingerprint,
    }
    files.replace_json(folder / DESCRIPTION, about)


def load(folder: Path) -> Target:
    """The target of a folder.

    Raises:
        TargetError: if a file is missing or damaged, or the target is not what was saved.
    """
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        name, temperature, energies, parameters = (about[key] for key in ("name", "temperature", "energies", "parameters"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{folder / DESCRIPTION} is damaged; restore it, or train in another folder.") from error
    target = from_xml(folder / SYSTEM, folder / STRUCTURE, temperature=temperature, name=name, parameters=parameters, energies=energies)
    if target.fingerprint != about.get("fingerprint"):
        raise TargetError(
            f"the molecule in {folder} is now {target.fingerprint}, but was {about.get('fingerprint')}; restore {SYSTEM} and {STRUCTURE}."
        )
    return target
