"""Writes samples: at once, or streamed so that they are readable after a kill at any moment (`sample_file` tells how).

One writer at a time: it holds a lock on `.samples.h5.lock`, which the system lets go of when the process ends, however it ends.
"""

import contextlib
import io
import itertools
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boltzflow import files
from boltzflow.errors import DataError, RunError
from boltzflow.sampling.sample_file import (
    any_part,
    create,
    describe,
    fill,
    hdf5,
    inspect,
    part_chain,
    parts_folder,
    plain,
    read,
    require_space,
)
from boltzflow.sampling.samples import FIELDS, IN_WORDS, ORIGIN, SUMMED, Samples, difference, summed

IDENTITY = ("target", "fingerprint", "model", "seed", "chunk", "averaged", "shard", *ORIGIN)
"""The meta that must agree before samples are appended to others; what only one side states is not compared."""


class SamplesWriter:
    """Appends samples to a file; a context manager that joins what was appended when it closes.

    Example:
        >>> with bf.sampling.SamplesWriter("samples.h5", samples.meta) as writer:
        ...     writer.append(samples)
        >>> bf.Samples.load("samples.h5").n
        64

    Args:
        path: the HDF5 file; its folder is made if need be.
        meta: where the samples come from. what adds up is summed over the appended samples' own meta.
        resume: continue the samples of an earlier writer, finished or killed; a torn last append is dropped.

    Attributes:
        n_written: samples that are safe on disk.

    Raises:
        RunError: if the path holds samples and `resume` is False, holds samples of another origin, cannot be written, or another writer
            has it open.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any], resume: bool = False) -> None:
        self.path = files.named(path)
        self.meta = {key: value for key, value in meta.items() if key not in SUMMED}
        self._parts = parts_folder(self.path)
        if self.path.is_dir():
            raise RunError(f"{self.path} is a folder; give the name of a file for the samples.")
        self.n_written = 0
        self._shape: tuple[int, ...] | None = None
        if not lock_file(self.path).exists():
            # A refusal leaves nothing behind, not even the file of a lock.
            self._find(resume)
        with self._guard():
            self._lock = locked(self.path)
        try:
            self._find(resume)
            self._tidy()
        except BaseException:
            self._lock.release(refused=True)
            raise

    def _find(self, resume: bool) -> None:
        """Finds what is there, and refuses what cannot be continued."""
        existing = _existing(self.path)
        if existing is None and self.path.exists():
            raise RunError(f"{self.path} exists and holds no boltzflow samples; choose another file.")
        if existing is not None and not resume:
            state = "already holds" if self.path.exists() else "was interrupted and holds"
            held = f"{existing[0]} samples{_origin(existing[2])}"
            raise RunError(f"{self.path} {state} {held}; continue with resume, or choose another file.")
        if existing is not None:
            self.n_written, self._shape, stored = existing
            check_identity(self.path, stored, self.meta)

    def _tidy(self) -> None:
        """Removes what a kill left behind: half-written parts, and parts that a finished join or a gap has made useless."""
        with self._guard():
            self._parts.mkdir(parents=True, exist_ok=True)
            kept = {part for _, part in part_chain(self.path)}
            for part in self._parts.iterdir():
                if part not in kept and part.stem.isdigit():
                    part.unlink()
            _temporary(self.path).unlink(missing_ok=True)

    def append(self, samples: Samples) -> None:
        """Adds samples; when this returns they are on the disk.

        Args:
            samples: that follow those before.

        Raises:
            DataError: if the positions have another shape than those before, or belong to another target.
            RunError: if the disk is full or the folder read-only, or the writer is closed; what was written before is kept.
        """
        if samples.n == 0:
            return
        if not self._lock.held:
            raise RunError(f"the writer of {self.path} is closed; open another one with resume.")
        check_identity(self.path, self.meta, samples.meta)
        shape = samples.positions.shape[1:]
        if self._shape is not None and shape != self._shape:
            raise DataError(f"samples of shape {shape} cannot follow the samples of shape {self._shape} in {self.path}.")
        meta = {**self.meta, **summed([samples.meta])}
        buffer = io.BytesIO()
        with hdf5(buffer, "w") as file:
            create(file, samples.n, samples)
            fill(file, 0, samples)
            describe(file, samples.n, meta)
        with self._guard():
            part = self._parts / f"{self.n_written:012d}.h5"
            with files.writing(part, temporary=part.with_suffix(".tmp")) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        self.n_written += samples.n
        self._shape = shape

    def close(self) -> None:
        """Joins everything into one file and removes the parts.

        Raises:
            RunError: if the joined file cannot be written; the parts are kept, and can be read and resumed.
        """
        if not self._lock.held:
            return
        chain = part_chain(self.path)
        if chain:
            with self._guard():
                _join(self.path, chain)
        with self._guard():
            shutil.rmtree(self._parts, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Lets go of the file without joining; another writer may continue it."""
        self._lock.release()

    def __enter__(self) -> "SamplesWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # After Ctrl-C the user wants the file; after any other failure joining would likely fail as well and hide the cause.
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.close()
        finally:
            self.release()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._discard_temporary()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            kept = f"; the {self.n_written} samples written before are kept, mend it and resume" if self.n_written else ""
            raise RunError(f"cannot write {self.path}: {reason}{kept}.") from error

    def _discard_temporary(self) -> None:
        with contextlib.suppress(OSError):
            _temporary(self.path).unlink(missing_ok=True)
            for left in self._parts.glob("*.tmp"):
                left.unlink()


def save(samples: Samples, path: str | Path, *, overwrite: bool = False) -> None:
    """Writes an HDF5 file, whole or not at all.

    Args:
        samples: what to write.
        path: the file; its folder is made if need be.
        overwrite: whether a file that is there may go.

    Raises:
        RunError: if the file exists and `overwrite` is False, or it cannot be written.
    """
    path = files.named(path)
    if not overwrite and (path.exists() or any_part(path)):
        raise RunError(f"{path} exists already; choose another file, or pass overwrite=True.")
    try:
        with locked(path), files.writing(path, temporary=_temporary(path)) as temporary:
            require_space(temporary, samples.positions.nbytes + sum(getattr(samples, name).nbytes for name in FIELDS))
            with hdf5(temporary, "w") as file:
                create(file, samples.n, samples)
                fill(file, 0, samples)
                describe(file, samples.n, samples.meta)
            # Parts of other samples must not be taken as a continuation of these.
            shutil.rmtree(parts_folder(path), ignore_errors=True)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"cannot write {path}: {reason}.") from error


def lock_file(path: Path) -> Path:
    """The file that writers of a samples file lock."""
    return path.with_name(f".{path.name}.lock")


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def locked(path: Path) -> files.Lock:
    """The lock of a samples file, held by this process until it is released or the process ends.

    Raises:
        RunError: if another writer holds it.
        OSError: if it cannot be made.
    """
    return files.Lock(lock_file(path), f"another writer has {path} open; wait until it has finished, or choose another file.")


def check_identity(path: Path, stored: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to mix samples of different origin.

    Raises:
        RunError: names the first thing that differs.
    """
    for key in IDENTITY:
        if key in stored and key in new and plain(stored[key]) != plain(new[key]):
            if key in IN_WORDS:
                raise RunError(
                    f"{path} holds samples that differ from the new ones in {IN_WORDS[key]}; choose another file for the new ones."
                )
            raise RunError(f"{path} holds samples with {key} {stored[key]!s}, not {new[key]!s}; choose another file for the new ones.")
    if (apart := difference(stored, new, ())) is not None:
        raise RunError(f"{path} holds samples that differ from the new ones in {apart}; choose another file for these.")


def _existing(path: Path) -> tuple[int, tuple[int, ...], dict[str, Any]] | None:
    """Number, shape of one configuration and meta of the samples at a path, from its file and parts; None if none can be read."""
    chain = part_chain(path)
    if path.is_file():
        try:
            n, shape, meta = inspect(path)
        except DataError:
            return None
    elif chain:
        n, (_, shape, meta) = 0, inspect(chain[0][1])
    else:
        return None
    return n + sum(inspect(part)[0] for _, part in chain), shape, meta


def _join(path: Path, chain: list[tuple[int, Path]]) -> None:
    """Copies the file, where there is one, and its parts into a new file that then takes the name."""
    sources = ([path] if path.is_file() else []) + [part for _, part in chain]
    facts = [inspect(source) for source in sources]
    total = sum(n for n, _, _ in facts)
    meta = {**facts[0][2], **summed([fact[2] for fact in facts])}
    with files.writing(path, temporary=_temporary(path)) as temporary:
        require_space(temporary, sum(source.stat().st_size for source in sources))
        with hdf5(temporary, "w") as file:
            for start, source in zip(itertools.accumulate((n for n, _, _ in facts), initial=0), sources, strict=False):
                samples = read(source)
                if start == 0:
                    create(file, total, samples)
                fill(file, start, samples)
            describe(file, total, meta)


def _origin(meta: Mapping[str, Any]) -> str:
    stated = [f"{key} {meta[key]}" for key in ("target", "model", "seed") if meta.get(key) is not None]
    return f" ({', '.join(stated)})" if stated else ""
