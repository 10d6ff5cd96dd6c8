"""Arguments that several verbs share, and their checks."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from boltzflow import cluster, files, seeds
from boltzflow.cli import output
from boltzflow.errors import ConfigError, RunError

# Not `int | None`: tyro would import a type checker to look at it, which takes longer than all the rest of the help.
MaybeInt = Optional[int]  # noqa: UP045
MaybeText = Optional[str]  # noqa: UP045


class Words(tuple[str, ...]):
    """Several words of one option. A type of its own for the same reason as `MaybeInt`."""

    __slots__ = ()


def words(metavar: str) -> tyro.constructors.PrimitiveConstructorSpec:
    """How several words are read, for an annotation of `Words`.

    Args:
        metavar: what help calls them.
    """
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*", metavar=metavar, instance_from_str=Words, is_instance=lambda value: isinstance(value, Words), str_from_instance=list
    )


Precision = Literal["single", "double"]
MaybePrecision = Optional[Precision]  # noqa: UP045
Flag = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Count = Annotated[int, tyro.conf.arg(aliases=["-n"], metavar="N")]
Set = Annotated[Words, words("OPTION=VALUE ..."), tyro.conf.arg(help_behavior_hint="(repeatable)")]
MaybeFloat = Optional[float]  # noqa: UP045
ForceField = Annotated[Words, words("NAME ..."), tyro.conf.arg(help_behavior_hint="(for files, peptides and SMILES)")]
Executor = Annotated[MaybeText, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: this process)")]
Distributed = Annotated[bool, tyro.conf.arg(help_behavior_hint="(several processes)")]
Coordinator = Annotated[MaybeText, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="(default: that of the queue)")]
Processes = Annotated[MaybeInt, tyro.conf.arg(metavar="N", help_behavior_hint="(default: that of the queue)")]
Process = Annotated[MaybeInt, tyro.conf.arg(metavar="K", help_behavior_hint="(default: that of the queue)")]
Shard = Annotated[MaybeText, tyro.conf.arg(metavar="K/N", help_behavior_hint="(such as 3/16; default: all)")]
Plugin = Annotated[Words, words("NAME ..."), tyro.conf.arg(help_behavior_hint="(modules or .py files)")]
Temperature = Annotated[MaybeFloat, tyro.conf.arg(metavar="KELVIN", help_behavior_hint="(for a molecule)")]
Cutoff = Annotated[MaybeFloat, tyro.conf.arg(metavar="NM", help_behavior_hint="(for a molecule; default: none)")]
Energies = Annotated[MaybeText, tyro.conf.arg(metavar="NAME", help_behavior_hint="(for a molecule; default: compiled)")]
Caps = Annotated[MaybeText, tyro.conf.arg(metavar="NAME", help_behavior_hint="(for a peptide; default: ace-nme)")]
Ph = Annotated[MaybeFloat, tyro.conf.arg(metavar="PH", help_behavior_hint="(default: 7 for a peptide, none for a file)")]
Disulfides = Annotated[Words, words("I-J ..."), tyro.conf.arg(help_behavior_hint="(for a peptide)")]
Coordinates = Annotated[MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(for Amber, GROMACS and CHARMM)")]
Parameters = Annotated[Words, words("FILE ..."), tyro.conf.arg(help_behavior_hint="(for CHARMM)")]
Solvent = Annotated[MaybeText, tyro.conf.arg(metavar="NAME", help_behavior_hint="(for Amber and CHARMM; default: vacuum)")]
Include = Annotated[MaybeText, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(for GROMACS)")]
SmallMolecules = Annotated[MaybeText, tyro.conf.arg(metavar="NAME", help_behavior_hint="(for SMILES)")]


MOST_SAMPLES = 2**31 - 1
"""Samples are numbered by 32-bit integers, of which their random keys are made."""


def count(n: int | None, name: str = "n") -> None:
    """Checks a number of samples or frames.

    Raises:
        ConfigError: if it is not positive, or more than can be numbered.
    """
    at_least(1, **{name: n})
    if n is not None and n > MOST_SAMPLES:
        raise ConfigError(f"{_option(name)} must be at most {MOST_SAMPLES}, got {n}.")


def seed(number: int | None) -> None:
    """Checks a seed, if it was given.

    Raises:
        ConfigError: if it is negative or has more than 64 bits.
    """
    if number is not None:
        seeds.checked(number, "--seed")


CONNECT_VARIABLE = "BOLTZFLOW_CONNECT_SECONDS"
"""Environment variable: how long processes wait for each other at the start."""

# A disk that has less than this part of what is needed is not waited for.
_OUT_OF_REACH = 10


def room(n: int, numbers: int, out: Path | None = None) -> None:
    """Checks that n samples fit into memory, and on the disk where they are kept.

    A disk that lacks some room is told of only: room can be made while samples are drawn, and what is written is kept and continued.

    Args:
        n: samples.
        numbers: coordinates of one.
        out: where they are kept; None: nowhere.

    Raises:
        ConfigError: if there is not enough memory, or not a tenth of the room on the disk.
    """
    # Coordinates in single precision and the columns beside them.
    size = n * (4 * numbers + 32)
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:
            raise ConfigError(f"{n} samples take {size / 1e9:.3g} GB, and this machine has {memory / 1e9:.3g} GB of memory; lower -n.")
    if out is None:
        return
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    lacks = f"{n} samples take {size / 1e9:.3g} GB, and the disk of {out} has {free / 1e9:.3g} GB free"
    if size > _OUT_OF_REACH * free:
        raise ConfigError(f"{lacks}; lower -n.")
    if size > free:
        output.say(f"{lacks}; make room before it is full, or continue then with what is kept.")


def _option(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def join(distributed: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of the same job, if there are to be several; before anything else is done with JAX.

    Raises:
        ConfigError: if the options do not go together.
        RunError: if the others are not found.
    """
    at_least(1, processes=processes)
    at_least(0, process=process)
    if distributed:
        cluster.initialise(coordinator, processes, process, seconds=int(os.environ.get(CONNECT_VARIABLE, cluster.CONNECT_SECONDS)))
    elif (coordinator, processes, process) != (None, None, None):
        raise ConfigError("--coordinator, --processes and --process are of several processes; add --distributed.")


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
            raise ConfigError(f"{_option(name)} must be at least {least}, got {value}.")


def own_precision(executor: str | None, precision: str | None, own: str) -> None:
    """Checks that workers are not asked for another precision than that of the run.

    Raises:
        ConfigError: if they are.
    """
    if executor is not None and precision not in (None, own):
        raise ConfigError("workers of --executor compute in the precision of the run; leave --precision out.")


def given(word: str, what: str) -> str:
    """A word that names something, such as a run or a model.

    Raises:
        ConfigError: if it is empty or cannot be a name.
    """
    files.named(word, what)
    return word


def new_file(
    path: str | os.PathLike[str], *, endings: Iterable[str] = (), replace: bool = False, option: str = "add --overwrite to replace it, "
) -> Path:
    """A file that can be written, checked before the work that fills it; nothing is written yet.

    Args:
        path: the file.
        endings: endings it may have; empty: any.
        replace: whether it may exist.
        option: what the user can do besides choosing another name where it exists; empty for nothing.

    Raises:
        RunError: if it exists or cannot be written.
        ConfigError: if it has no name or another ending.
    """
    path = files.named(path)
    endings = tuple(endings)
    if endings and path.suffix.lower() not in endings:
        raise ConfigError(f"{path} must end in {' or '.join(endings)}.")
    if path.is_dir():
        raise RunError(f"{path} is a folder; name a file.")
    if path.exists() and not replace:
        raise RunError(f"{path} exists already; {option}choose another name, or delete it first.")
    files.require_writable(path)
    return path


def new_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that files can be written into, checked before the work that fills it; it is not made yet.

    Raises:
        RunError: if it is a file or cannot be written.
        ConfigError: if it has no name.
    """
    path = files.named(path, "the name of the folder")
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name a folder.")
    files.require_writable(path / "config.yaml" if path.is_dir() else path)
    return path
