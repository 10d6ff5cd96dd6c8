"""Molecules from files on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from boltzflow.targets import Target

_ENDINGS = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")


def is_file(name: str) -> bool:
    """Whether a word names a molecule's file, by its ending, rather than a target or preset."""
    return Path(name).suffix.lower() in _ENDINGS


def from_words(name: str, force_field: tuple[str, ...], temperature: float | None) -> "Target | None":
    """The target of a molecule's file; None for other names.

    Raises:
        ConfigError: if force field or temperature are missing, or given for something that is no file.
        TargetError: if the molecule cannot be read or the force field does not fit.
    """
    if not is_file(name):
        if force_field or temperature is not None:
            raise ConfigError(f"--force-field and --temperature are for molecules from files such as molecule.pdb, but got {name!r}.")
        return None
    if not force_field:
        raise ConfigError(f"name the force field of {name}, such as --force-field amber14-all.xml implicit/gbn2.xml.")
    if temperature is None:
        raise ConfigError(f"give the temperature of {name} in kelvin, such as --temperature 300.")
    from boltzflow import targets

    return targets.from_pdb(name, force_field=force_field, temperature=temperature)
