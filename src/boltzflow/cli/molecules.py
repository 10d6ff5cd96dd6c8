"""Molecules on the command line: from files, sequences and SMILES."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from boltzflow.config.molecule import Molecule, kind_of
from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from boltzflow.targets import Target

_EXAMPLES = {
    "force_field": ("name the force field of {source}", "amber14-all.xml implicit/gbn2.xml"),
    "temperature": ("give the temperature of {source} in kelvin", "300"),
    "coordinates": ("name the file with the coordinates of {source}", "molecule.gro"),
    "parameters": ("name the files with the parameters of {source}", "top_all36_prot.rtf par_all36_prot.prm"),
}


def is_source(name: str) -> bool:
    """Whether a word names a molecule by itself (a file, a sequence, a SMILES), rather than a target or preset."""
    return kind_of(name) is not None


def options(arguments: dict[str, object]) -> dict[str, object]:
    """Those arguments of a verb that describe a molecule."""
    names = {field.name for field in dataclasses.fields(Molecule)} - {"source"}
    return {name: value for name, value in arguments.items() if name in names}


def stem(name: str) -> str:
    """What files and folders of a target, preset or molecule are called."""
    if kind_of(name) in ("peptide", "smiles"):
        return re.sub(r"\W+", "_", name).strip("_")
    return Path(name).stem


def described(name: str, options: dict[str, object]) -> Molecule:
    """The molecule that a word names, with the options that were given beside it.

    Args:
        name: the word.
        options: by the names of `Molecule`; None and empty ones were not given.

    Raises:
        ConfigError: if an option is missing, does not belong to such a molecule, or was given for something that is none.
    """
    given = {option: value for option, value in options.items() if value not in (None, ())}
    if not is_source(name):
        if given:
            word = _option(next(iter(given)))
            raise ConfigError(f"{word} is for molecules from files such as molecule.pdb, or peptide:AAA, but got {name!r}.")
        return Molecule()
    molecule = Molecule(source=name, **{option: tuple(v) if isinstance(v, tuple) else v for option, v in given.items()})  # pyright: ignore[reportArgumentType]
    for option, problem in molecule.problems():
        if not getattr(molecule, option) and option in _EXAMPLES:
            sentence, example = _EXAMPLES[option]
            raise ConfigError(f"{sentence.format(source=name)}, such as {_option(option)} {example}.")
        raise ConfigError(f"{_option(option)} {problem}.")
    return molecule


def made(molecule: Molecule) -> "Target | None":
    """The target of a molecule; None if it names none.

    Raises:
        TargetError: if the molecule cannot be read or built, or the force field does not fit.
    """
    if molecule.source is None:
        return None
    from boltzflow.targets.sources import from_source

    return from_source(molecule)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
