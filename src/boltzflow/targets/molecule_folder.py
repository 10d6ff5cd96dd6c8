"""A molecule kept in a folder, so that a run can be taken up, moved and shared without the files that it was made from."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from boltzflow import files
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.chemistry.systems import read_system
from boltzflow.errors import TargetError
from boltzflow.targets import description
from boltzflow.targets.base import Target
from boltzflow.targets.description import Description
from boltzflow.targets.molecules import assembled
from boltzflow.targets.registry import get, name_of

DESCRIPTION, SYSTEM, STRUCTURE = "molecule.json", "system.xml", "structure.pdb"
UNREGISTERED = "target.json"
"""What is known of a target that cannot be made again: one whose energy is a function or a calculator of the user's."""
FILES = (DESCRIPTION, SYSTEM, STRUCTURE, UNREGISTERED)
FORMAT = 2
_HASH = "system"


def holds(folder: Path) -> bool:
    """Whether a folder holds a molecule that can be made again."""
    return (folder / DESCRIPTION).is_file()


def structure_text(target: Target) -> str:
    """A PDB file of a molecule, the minimum of its energy; empty for other targets.

    It goes wherever positions are stored, so that viewers can show them. Names that a PDB file cannot hold are replaced, and bonds that
    its readers would not guess are in CONECT records; the molecule as it is lies beside it, see `texts`.
    """
    if target.topology is None or target.structure is None:
        return ""
    app = import_openmm().app
    topology = description.for_pdb(target.topology, ())
    text = io.StringIO()
    # Without OpenMM's header, which holds the date: equal molecules have equal texts. Plain numbers are taken as Ångström.
    app.PDBFile.writeModel(topology, 10.0 * np.asarray(target.structure), text, keepIds=True)
    text.write(_connections(topology, target.bonds))
    text.write("END\n")
    return text.getvalue()


class Texts(TypedDict):
    """What data and samples say of their molecule.

    Attributes:
        structure: a PDB file for viewers; empty where there is none.
        molecule: JSON of a `Description`; empty where there is nothing to say.
    """

    structure: str
    molecule: str


def texts(target: Target) -> Texts:
    """What goes wherever positions of a target are stored.

    Returns:
        structure: a PDB file for viewers, empty for what is no molecule. molecule: the `Description` as JSON, for all targets that are
        molecules or cannot be made from a name; empty for others.
    """
    kept = target.topology is not None or target.elements or target.bonds or name_of(target) is None
    return {"structure": structure_text(target), "molecule": description.of(target).to_json() if kept else ""}


def save(target: Target, folder: Path) -> None:
    """Writes what makes up a target that has no name: a molecule with its system, or what is known of another.

    Raises:
        OSError: if the folder cannot be written.
    """
    if not target.system:
        if name_of(target) is None and not (folder / UNREGISTERED).is_file():
            files.replace(folder / UNREGISTERED, description.of(target).to_json() + "\n")
        return
    if holds(folder):
        return
    files.replace(folder / SYSTEM, target.system.encode())
    files.replace(folder / STRUCTURE, structure_text(target).encode())
    about = {
        "format": FORMAT,
        "name": target.name,
        "temperature": target.temperature,
        "energies": target.energies_by,
        "parameters": {key: _plain(value) for key, value in target.parameters.items() if key != _HASH},
        "fingerprint": target.fingerprint,
        # As JSON all digits of a number are kept.
        "structure": np.asarray(target.structure, np.float64).tolist(),
        "molecule": json.loads(description.of(target).to_json()),
    }
    files.replace_json(folder / DESCRIPTION, about)


def load(folder: Path) -> Target:
    """The target of a folder, as it was saved: nothing is minimised or found out anew.

    Raises:
        TargetError: if a file is missing or damaged, or the target is not what was saved.
    """
    about = _about(folder)
    try:
        name, temperature, energies, parameters = (about[key] for key in ("name", "temperature", "energies", "parameters"))
        stated, minimum = about["fingerprint"], np.asarray(about["structure"], np.float64)
        known = description.read(json.dumps(about["molecule"]))
        shape, topology = (known.n_particles, 3), known.topology
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, TargetError) as error:
        raise TargetError(f"{folder / DESCRIPTION} is damaged; restore it, or train in another folder.") from error
    path = folder / SYSTEM
    if not path.is_file():
        raise TargetError(f"the molecule in {folder} lacks its file {SYSTEM}; restore it.")
    system = read_system(path)
    if topology is None or minimum.shape != shape or system.getNumParticles() != known.n_particles:
        raise TargetError(f"the files {DESCRIPTION} and {SYSTEM} in {folder} are of different molecules; restore those of the run.")
    target = assembled(
        system,
        topology,
        temperature,
        name=name,
        parameters=parameters,
        energies=energies,
        minimum=minimum,
        bonds=known.bonds,
        classes=known.classes,
        reflections=known.reflections,
        chiral_centres=known.chiral_centres,
    )
    if target.fingerprint != stated:
        raise TargetError(
            f"the molecule in {folder} is now {target.fingerprint}, but was {stated}: {SYSTEM} or {DESCRIPTION} was changed; restore it."
        )
    return target


def load_description(folder: Path) -> Description | None:
    """What a run folder says of its target: units, elements, bonds and residues, without energy; None if it says nothing.

    For molecules and for targets that cannot be made again; those that are registered by name say it themselves.

    Raises:
        TargetError: if the file is damaged.
    """
    if holds(folder):
        about = _about(folder)
        return description.read(json.dumps(about.get("molecule")))
    path = folder / UNREGISTERED
    if not path.is_file():
        return None
    try:
        return description.read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{path} cannot be read; restore it.") from error


def target_of(name: str, folder: Path | None, *, owner: str | None = None) -> Target:
    """The target of a run or a model: the molecule that its folder keeps, else the registered target of that name.

    Args:
        name: of the target.
        folder: that may keep a molecule.
        owner: who can be given another target, for the sentence where there is none, such as "the model in x was trained for".

    Raises:
        TargetError: if there is neither, or the molecule is damaged.
    """
    if folder is not None and holds(folder):
        return load(folder)
    try:
        return get(name)
    except TargetError as error:
        if owner is None:
            raise
        raise TargetError(f"{owner} the target {name!r}, which is not built in; pass target=.") from error


def _about(folder: Path) -> dict[str, Any]:
    """What molecule.json holds."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        written = about.get("format", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise TargetError(f"{folder / DESCRIPTION} is damaged; restore it, or train in another folder.") from error
    if written == 1:
        raise TargetError(
            f"{folder / DESCRIPTION} is of an earlier version of boltzflow, which did not keep the molecule's bonds; use that version, or "
            "train again in another folder."
        )
    if written != FORMAT:
        raise TargetError(f"{folder / DESCRIPTION} has format {written}, this version reads up to {FORMAT}; update boltzflow.")
    return about


def _connections(topology: Any, bonds: Sequence[tuple[int, int]]) -> str:
    """CONECT records of the bonds that readers do not make by the names of residues and atoms; the topology has none."""
    topology.createStandardBonds()
    known = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds()}
    numbers, number = {}, 0
    for chain in topology.chains():
        number += 1
        for atom in chain.atoms():
            numbers[atom.index] = number
            number += 1
    partners: dict[int, list[int]] = {}
    for i, j in sorted((min(pair), max(pair)) for pair in bonds):
        if (i, j) not in known:
            partners.setdefault(numbers[i], []).append(numbers[j])
            partners.setdefault(numbers[j], []).append(numbers[i])
    # Beyond five digits there is no place for a number, nor is there for these atoms' own.
    return "".join(
        f"CONECT{atom:5d}{''.join(f'{other:5d}' for other in others[first : first + 4])}\n"
        for atom, others in sorted(partners.items())
        for first in range(0, len(others), 4)
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
