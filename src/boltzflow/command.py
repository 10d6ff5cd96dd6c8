"""The command that this process carries out, so that a run can say how it was made."""

import shlex
from collections.abc import Sequence

_words: list[str] = []


def note(words: Sequence[str]) -> None:
    """Keeps the words of the command line that follow the program's name."""
    _words[:] = words


def text() -> str:
    """The command as it could be typed again; empty where the work was asked for from Python."""
    return f"boltzflow {shlex.join(_words)}" if _words else ""
