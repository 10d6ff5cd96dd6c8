"""Errors that are meant to be read by people.

Every error here carries one sentence that says what is wrong and what to do. The command line prints that sentence alone and
exits with code 2; the library raises it.
"""

import difflib
from collections.abc import Iterable


class BoltzflowError(Exception):
    """Base class of all errors that a user can cause and mend."""


class ConfigError(BoltzflowError):
    """A preset, an option or an override is unknown or has a wrong type."""


class TargetError(BoltzflowError):
    """A target is unknown, or its energy does not behave as a reduced energy must."""


class DataError(BoltzflowError):
    """A data set or a samples file cannot be used with the target at hand."""


class CheckpointError(BoltzflowError):
    """A checkpoint or a model file is missing, truncated or belongs to something else."""


class RunError(BoltzflowError):
    """A run folder cannot be written, or holds another run."""


class MissingExtraError(BoltzflowError):
    """A package is missing that an extra of the installation brings."""


class RunInterrupted(RunError):
    """A run was interrupted by a signal; its state is saved.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, sentence: str, signal: int) -> None:
        super().__init__(sentence)
        self.signal = int(signal)


class PeerLost(RunError):
    """Another process of the same job has gone or failed; what was saved is kept, and the job can be started again."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Ends an "unknown name" sentence with the nearest known names, or with all of them if none is near."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"known are: {', '.join(options)}."
