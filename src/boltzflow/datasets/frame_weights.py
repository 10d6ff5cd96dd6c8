"""Log-weights of frames that do not count alike, as of metadynamics or of reweighted sets: what they must be, and how files hold them."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import files
from boltzflow.errors import DataError

NAME = "log_weight"
"""Of the array, the entry of a frame, or the column in a file that holds them; as samples have it."""
_LIKELY = ("weight", "weights", "log_weights", "logweight", "logweights", "log_w", "logw")


def valid(values: Any, n: int, source: str) -> Float[np.ndarray, " n"]:
    """Log-weights of n frames as float64.

    Raises:
        DataError: if they are no numbers, not n, NaN or +inf.
    """
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the log-weights of {source} must be numbers, one for each frame ({error}).") from error
    if found.shape != (n,):
        raise DataError(f"the log-weights of {source} must have shape ({n},), one for each frame, but have {found.shape}.")
    wrong = np.isnan(found) | np.isposinf(found)
    if wrong.any():
        raise DataError(
            f"the log-weights of {source} must be finite, or -inf for a frame without weight; {int(wrong.sum())} of {n} are NaN or +inf, "
            f"the first at index {int(np.flatnonzero(wrong)[0])}."
        )
    return found


def checked(values: Any, n: int, source: str) -> Float[np.ndarray, " n"] | None:
    """As `valid`; None where all are alike, as they are where there are none.

    Raises:
        DataError: as `valid`, or if no frame has weight.
    """
    if values is None:
        return None
    found = valid(values, n, source)
    if n and np.isneginf(found).all():
        raise DataError(f"no frame of {source} has weight: all {n} log-weights are -inf.")
    return None if n == 0 or np.ptp(found) == 0.0 else found


def refuse_others(names: Iterable[str], source: str) -> None:
    """Refuses what a file seems to hold as weights under another name; to leave them out in silence would be wrong.

    Raises:
        DataError: says under which name they are looked for.
    """
    for name in names:
        if name.lower() in _LIKELY:
            raise DataError(
                f"{source} holds {name!r}, which is not read: give the natural logarithms of weights the name {NAME!r}, or leave it out if "
                "frames count alike."
            )


def of_file(path: str | os.PathLike[str]) -> Any:
    """The log-weights in a file of their own: .npy, or a text with one number a line (`#` begins a comment).

    Raises:
        DataError: if there is no such file, or it cannot be read.
    """
    path = files.named(path, "the name of the file of log-weights")
    if not path.is_file():
        raise DataError(f"there is no file of log-weights {path}; correct the path.")
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, ndmin=1)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as log-weights ({reason}); write a .npy file, or one number a line.") from error


def given(values: Any) -> Any:
    """Log-weights in whatever form they are given: numbers, or the name of a file of theirs; None of none."""
    return of_file(values) if isinstance(values, str | Path | os.PathLike) else values
