"""A molecule kept in a folder, so that a run can be taken up, moved and shared without the files that it was made from."""

import io
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


def structure_text(target: Target) -> str:
    """A PDB file of a molecule, the minimum of its energy; empty for other targets.

    It goes wherever positions are stored, so that they can be shown without the files that the molecule was made from.
    """
    if target.topology is None or target.structure is None:
        return ""
    app = import_openmm().app
    text = io.StringIO()
    # Without OpenMM's header, which holds the date: equal molecules have equal texts. Plain numbers are taken as Ångström.
    app.PDBFile.writeModel(target.topology, 10.0 * np.asarray(target.structure), text, keepIds=True)
    app.PDBFile.writeFooter(target.topology, text)
    return text.getvalue()


def save(target: Target, folder: Path) -> None:
    """Writes the system, a structure and what else makes up a target of a molecule; nothing for other targets.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not target.system or holds(folder):
        return
    files.replace(folder / SYSTEM, target.system.encode())
    files.replace(folder / STRUCTURE, structure_text(target).encode())
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
