"""The targets that the command line knows by name."""

import functools
from collections.abc import Callable

from boltzflow.errors import TargetError, nearest
from boltzflow.targets.base import Target
from boltzflow.targets.double_well import double_well
from boltzflow.targets.lennard_jones import lennard_jones
from boltzflow.targets.peptides import alanine_dipeptide
from boltzflow.targets.qm9 import qm9_positional

# What makes each target, its own name, and a description; targets of molecules take seconds to make, and need OpenMM.
_TARGETS: dict[str, tuple[Callable[[], Target], str, str]] = {
    "dw4": (double_well, "double_well", "4 particles in 2-D with double-well pair interactions"),
    "lj13": (
        functools.partial(lennard_jones, 13, epsilon=2.0),
        "lennard_jones",
        "13 Lennard-Jones particles, epsilon = 2 kT (ordered pairs counted; the published frames)",
    ),
    "lj13-once": (
        functools.partial(lennard_jones, 13, epsilon=1.0),
        "lennard_jones",
        "13 Lennard-Jones particles, epsilon = 1 kT (each pair counted once)",
    ),
    "lj55": (
        functools.partial(lennard_jones, 55, epsilon=2.0),
        "lennard_jones",
        "55 Lennard-Jones particles, epsilon = 2 kT (ordered pairs counted; the published frames)",
    ),
    "lj55-once": (
        functools.partial(lennard_jones, 55, epsilon=1.0),
        "lennard_jones",
        "55 Lennard-Jones particles, epsilon = 1 kT (each pair counted once)",
    ),
    "alanine-dipeptide": (
        alanine_dipeptide,
        "alanine_dipeptide",
        "Ace-Ala-NMe, 22 atoms, amber99sbildn with implicit water at 300 K (needs boltzflow[molecules])",
    ),
    "qm9-positional": (
        qm9_positional,
        "qm9_positional",
        "positions of the 19-atom molecules of QM9; frames only, no energy (needs the package qm9pack)",
    ),
}


def add(name: str, make: Callable[[], Target], description: str = "") -> None:
    """Makes a target known by a name.

    Args:
        name: the name.
        make: makes the target; called when it is first asked for.
        description: one line for `boltzflow targets`.

    Raises:
        TargetError: if another target has the name.
    """
    there = _TARGETS.get(name)
    if there is not None and getattr(there[0], "__module__", None) != make.__module__:
        raise TargetError(f"there is a target {name!r} already; choose another name.")
    # Its own name is not known before it is made; see `name_of`.
    _TARGETS[name] = (make, "", description)


def get(name: str) -> Target:
    """The target of that name.

    The same name gives the same object each time, so that what was compiled for it is used again.

    Args:
        name: as `boltzflow targets` lists it.

    Raises:
        TargetError: if there is none; names the nearest ones.
    """
    if name not in _TARGETS:
        raise TargetError(f"there is no target {name!r}; {nearest(name, _TARGETS)}")
    return _make(name)


@functools.cache
def _make(name: str) -> Target:
    return _TARGETS[name][0]()


def names() -> dict[str, str]:
    """Name and one-line description of every registered target."""
    return {name: description for name, (_, _, description) in _TARGETS.items()}


def name_of(target: Target) -> str | None:
    """The name under which a target of the same fingerprint is registered; None if there is none.

    Only targets that share the target's own name, and those of plug-ins, are made to compare.

    Args:
        target: the target.
    """
    candidates = (name for name, (_, own_name, _) in _TARGETS.items() if own_name in (target.name, ""))
    return next((name for name in candidates if get(name).fingerprint == target.fingerprint), None)
