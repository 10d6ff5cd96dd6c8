"""Arguments that several verbs share, and their checks."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from boltzflow.errors import ConfigError, RunError

# Not `int | None`: tyro would import a type checker to look at it, which takes longer than all the rest of the help.
MaybeInt = Optional[int]  # noqa: UP045
MaybeText = Optional[str]  # noqa: UP045


class Words(tuple[str, ...]):
    """Several words of one option. A type of its own for the same reason as `MaybeInt`."""

    __slots__ = ()


def _words(metavar: str) -> tyro.constructors.PrimitiveConstructorSpec:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*", metavar=metavar, instance_from_str=Words, is_instance=lambda value: isinstance(value, Words), str_from_instance=list
    )


Precision = Literal["single", "double"]
MaybePrecision = Optional[Precision]  # noqa: UP045
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Count = Annotated[int, tyro.conf.arg(aliases=["-n"], metavar="N")]
Set = Annotated[Words, _words("OPTION=VALUE ..."), tyro.conf.arg(help_behavior_hint="(repeatable)")]
MaybeFloat = Optional[float]  # noqa: UP045
ForceField = Annotated[Words, _words("NAME ..."), tyro.conf.arg(help_behavior_hint="(for a molecule from a file)")]
Temperature = Annotated[MaybeFloat, tyro.conf.arg(metavar="KELVIN", help_behavior_hint="(for a molecule from a file)")]


def at_least(least: int, **options: int | None) -> None:
    """Checks numbers that were given.

    Args:
        least: the smallest allowed number.
        **options: numbers by the name of their option; None where it was not given.

    Raises:
        ConfigError: names the option and its value.
    """
    for name, value in options.items():
        if value is not None and value < least:
            option = f"-{name}" if len(name) == 1 else f"--{name}"
            raise ConfigError(f"{option} must be at least {least}, got {value}.")


def new_file(path: str | os.PathLike[str], *, endings: Iterable[str] = (), replace: bool = False) -> Path:
    """A file that can be written, checked before the work that fills it; makes its folder.

    Args:
        path: the file.
        endings: endings it may have; empty: any.
        replace: whether it may exist.

    Raises:
        RunError: if it exists or its folder cannot be made or written.
        ConfigError: if it has another ending.
    """
    path = Path(path)
    endings = tuple(endings)
    if endings and path.suffix.lower() not in endings:
        raise ConfigError(f"{path} must end in {' or '.join(endings)}.")
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file.")
    if path.exists() and not replace:
        raise RunError(f"{path} exists already; choose another name, or delete it first.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {path.parent} cannot be made ({error.strerror}); choose another place.") from error
    if not os.access(path.parent, os.W_OK):
        raise RunError(f"the folder {path.parent} cannot be written to; choose another place.")
    return path
