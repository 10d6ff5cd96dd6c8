"""Files written whole or not at all, and names of files that can be written."""

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boltzflow.errors import ConfigError, RunError

_LONGEST = 230
"""Bytes of a name: file systems take 255, and what is being written has a longer name for a while."""


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file at once: whoever reads it, or the run that is killed meanwhile, finds the old content or the new, never half.

    When it returns the content is on the disk, so that it outlasts a power failure.

    Raises:
        OSError: if the folder cannot be written; nothing is left behind.
    """
    with writing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: Path, *, temporary: Path | None = None) -> Iterator[Path]:
    """A file to write in the block, which gets its name at the end of it, once its content is on the disk.

    No crash leaves half of it under that name, and nothing is left behind where the block or the renaming fails.

    Args:
        path: the name that the file gets.
        temporary: its name until then, in the same folder; None: that of the file with `.part` after it.

    Raises:
        OSError: if it cannot be written or renamed.
    """
    part = path.with_name(path.name + ".part") if temporary is None else temporary
    try:
        yield part
        _commit(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _commit(temporary: Path, path: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def reason(error: BaseException) -> str:
    """Why something could not be written or read, without the internals of HDF5, which hides the system's error in its own."""
    given = getattr(error, "strerror", None)
    number = getattr(error, "errno", None)
    text = str(error)
    if found := re.search(r"errno = (\d+)", text):
        number, given = int(found[1]), os.strerror(int(found[1]))
    if number == errno.ENOSPC or "No space left on device" in text:
        return "there is no space left on the disk"
    return (given or next(iter(text.splitlines()), type(error).__name__)).splitlines()[0]


def replace_json(path: Path, content: Any) -> None:
    """Writes JSON at once; numbers that are not finite are refused, since JSON cannot say them.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if a number is not finite.
    """
    replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def named(path: str | os.PathLike[str], what: str = "the name of a file") -> Path:
    """A path from the user; an empty one would mean the current folder, which nobody who gives it wants.

    Raises:
        ConfigError: if it is empty, or no name that a file could have.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ConfigError(f"{what} is empty; name one.")
    if "\0" in text:
        raise ConfigError(f"{what} holds a null character; name another.")
    for part in Path(text).parts:
        size = len(os.fsencode(part))
        if size > 255:
            raise ConfigError(f"{what} is too long ({size} bytes, where file systems take 255): {part[:40]}...; choose a shorter one.")
    return Path(text)


def require_writable(path: Path, *, longest: int = _LONGEST) -> None:
    """Makes sure that a file or folder of this name can be made, and leaves nothing behind; folders above it need not exist yet.

    Args:
        path: the file or folder.
        longest: bytes that its name may have; 255 where what is written meanwhile has a short name of its own.

    Raises:
        RunError: says why not.
    """
    size = len(os.fsencode(path.name))
    if size > longest:
        raise RunError(f"cannot write: the name {path.name[:40]}... is too long ({size} bytes, at most {longest}); choose a shorter one.")
    above = path.parent
    try:
        while not above.exists():
            above = above.parent
        if not above.is_dir():
            raise RunError(f"cannot write {path}: {above} is a file, not a folder; choose another place.")
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise RunError(f"cannot write {path} ({above}: {reason(error)}); choose another place.") from error


class Lock:
    """What a lock file stands for, kept to this process from here on until it is released; a context manager.

    The system gives the lock back when the process ends, however it ends. The lock file is made, with its folder; both go again, the
    folder if nothing has come into it.

    Args:
        file: the lock file.
        sentence: what whoever comes second is told.

    Raises:
        RunError: with the sentence, if another process holds it.
        OSError: if it cannot be made.
    """

    def __init__(self, file: Path, sentence: str) -> None:
        import filelock

        self._file = file
        self._made = [path for path in (file.parent, *file.parent.parents) if not path.exists()]
        self._left = file.exists()
        # The thread that lets go may be another one than that which took hold.
        self._lock = filelock.FileLock(file, timeout=0, thread_local=False)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout:
            raise RunError(sentence) from None

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return self._lock.is_locked

    def release(self, *, refused: bool = False) -> None:
        """Gives the lock back.

        Args:
            refused: nothing has been done under it, so that a lock file which a killed process has left stays, as all else does.
        """
        if not self.held:
            return
        # While it is held: whoever opened the file before it went tries again (filelock looks whether it is still there).
        with contextlib.suppress(OSError):
            if not (refused and self._left):
                self._file.unlink()
        self._lock.release()
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.release(refused=kind is not None)
