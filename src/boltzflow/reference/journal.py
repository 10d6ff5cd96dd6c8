"""Finished steps of a long computation on disk, so that after a kill it goes on with the first one that is missing.

Every step is a file of its own that gets its name only once it is whole and on the disk; what a step needs to go on, the state of the
chains and of the random numbers, lies in the file of the step before. So a computation that was killed any number of times gives the same
bits as one that was not.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boltzflow import files
from boltzflow.errors import RunError

_IDENTITY = "computation.json"


def folder_of(path: Path) -> Path:
    """Where the steps towards a file lie until it is there."""
    return path.with_name(path.name + ".parts")


class Journal:
    """The steps of one computation; made by `opened`.

    Attributes:
        done: number of steps on the disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.done = 0
        while self._file(self.done).is_file():
            self.done += 1

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def read(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of a step, by name.

        Raises:
            RunError: if the file is damaged.
        """
        try:
            with np.load(self._file(number)) as arrays:
                return dict(arrays)
        except Exception as error:
            raise RunError(f"{self._file(number)} is damaged; delete it and those after it, and resume from the step before.") from error

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds the next step; when this returns it is on the disk.

        Raises:
            RunError: if the disk is full or the folder read-only; the steps before are kept.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType] (names come from the caller)
        try:
            files.replace(self._file(self.done), buffer.getvalue())
        except OSError as error:
            raise RunError(
                f"{self._folder} cannot be written: {files.reason(error)}; what is done is kept there, make room and continue with resume."
            ) from error
        self.done += 1


def stated(path: Path) -> Mapping[str, Any]:
    """What the interrupted computation towards a file depends on; empty where there is none."""
    try:
        return json.loads((folder_of(path) / _IDENTITY).read_text())
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def opened(path: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Journal]:
    """The journal of the computation that makes a file, for this process alone while the block runs.

    It stays on the disk when the block ends: remove it with `remove` once the file is there.

    Args:
        path: the file that is being made.
        identity: all that the result depends on, as JSON can say it; a journal of anything else is not continued.
        resume: continue the journal that is there, if there is one.

    Raises:
        RunError: if there is one and `resume` is False, it is of another computation, another process has it open, or it cannot be written.
    """
    folder = folder_of(path)
    stated = json.loads(json.dumps(dict(identity)))
    with _locked(path, folder.with_name(f".{folder.name}.lock")):
        try:
            if (folder / _IDENTITY).is_file():
                if not resume:
                    raise RunError(f"{path} was begun and interrupted; continue it with resume, choose another file, or delete {folder}.")
                _require_same(json.loads((folder / _IDENTITY).read_text()), stated, path)
            folder.mkdir(parents=True, exist_ok=True)
            files.replace_json(folder / _IDENTITY, stated)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {files.reason(error)}; choose another place.") from error
        except ValueError as error:
            raise RunError(f"{folder / _IDENTITY} is damaged; delete {folder} and begin anew.") from error
        yield Journal(folder)


def _locked(path: Path, lock: Path) -> files.Lock:
    try:
        return files.Lock(lock, f"another process is making {path}; wait until it has ended, or choose another file.")
    except OSError as error:
        raise RunError(f"{lock.parent} cannot be written: {files.reason(error)}; choose another place.") from error


def remove(path: Path) -> None:
    """Removes the journal of a file that is there."""
    shutil.rmtree(folder_of(path), ignore_errors=True)


def _require_same(there: Mapping[str, Any], stated: Mapping[str, Any], path: Path) -> None:
    for name in stated:
        if there.get(name) != stated[name]:
            raise RunError(f"{path} was begun with {name} {there.get(name)}, not {stated[name]}; choose the same, or another file.")
