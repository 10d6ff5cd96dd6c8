"""Samples on disk: streamed, and readable after a kill at any moment.

An HDF5 file that is being written is unreadable once its writer is killed between two of its many small writes; flushing narrows that
window, and single-writer-multiple-reader mode leaves flags that need a repair tool and asks for a local file system. So nothing is ever
written in place. Each append makes a whole small file, `samples.h5.parts/<first sample>.h5`, which gets its name only once it is on the
disk; `close` joins the parts into `samples.h5` by the same trick, and only then removes them. A reader takes `samples.h5`, where there is
one, and every part that continues it without a gap.

One writer at a time: it holds a lock on `.samples.h5.lock`, which the system lets go of when the process ends, however it ends. The lock's
file stays, because another process may be about to lock it.
"""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from boltzflow import files
from boltzflow.errors import DataError, RunError
from boltzflow.sampling.samples import FIELDS, IN_WORDS, ORIGIN, OTHER_HAND, SUMMED, Samples, difference, summed

if TYPE_CHECKING:
    from filelock import FileLock

FORMAT = "boltzflow samples"
VERSION = 2
"""2 has log-weights, which 1 leaves to be computed; a reader of 1 would not know of the weights of thinned samples."""
ABOUT = (
    "log_weight = -u - log_q where nothing else was done to the samples, -inf where status != 0 or u or log_q is not finite. "
    "log_q lives on the zero-CoM subspace."
)
IDENTITY = ("target", "fingerprint", "model", "seed", "chunk", "averaged", *ORIGIN)
"""The meta that must agree before samples are appended to others; what only one side states is not compared."""

# Entries of the meta that have a dataset of their own: an attribute of HDF5 holds 64 kB, and large molecules need more.
_TEXTS = ("structure", "molecule")
_CHUNK_BYTES = 1 << 20
_TABLES_BYTES = 1 << 18


class SamplesWriter:
    """Appends samples to a file; a context manager that joins what was appended when it closes.

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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.path)
        try:
            self._find(resume)
            self._tidy()
        except BaseException:
            self._lock.release()
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
            kept = {part for _, part in _part_chain(self.path)}
            for part in self._parts.iterdir():
                if part not in kept and part.stem.isdigit():
                    part.unlink()
            self._temporary.unlink(missing_ok=True)

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + ".tmp")

    def append(self, samples: Samples) -> None:
        """Adds samples; when this returns they are on the disk.

        Raises:
            DataError: if the positions have another shape than those before, or belong to another target.
            RunError: if the disk is full or the folder read-only, or the writer is closed; what was written before is kept.
        """
        if samples.n == 0:
            return
        if not self._lock.is_locked:
            raise RunError(f"the writer of {self.path} is closed; open another one with resume.")
        check_identity(self.path, self.meta, samples.meta)
        shape = samples.positions.shape[1:]
        if self._shape is not None and shape != self._shape:
            raise DataError(f"samples of shape {shape} cannot follow the samples of shape {self._shape} in {self.path}.")
        meta = {**self.meta, **summed([samples.meta])}
        buffer = io.BytesIO()
        with _hdf5(buffer, "w") as file:
            _create(file, samples.n, shape, samples.positions.dtype)
            _fill(file, 0, samples)
            _describe(file, samples.n, meta)
        with self._guard():
            part = self._parts / f"{self.n_written:012d}.h5"
            temporary = part.with_suffix(".tmp")
            temporary.write_bytes(buffer.getbuffer())
            files.commit(temporary, part)
        self.n_written += samples.n
        self._shape = shape

    def close(self) -> None:
        """Joins everything into one file and removes the parts.

        Raises:
            RunError: if the joined file cannot be written; the parts are kept, and can be read and resumed.
        """
        if not self._lock.is_locked:
            return
        chain = _part_chain(self.path)
        if chain:
            with self._guard():
                _join(self.path, self._temporary, chain)
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
            self._temporary.unlink(missing_ok=True)
            for left in self._parts.glob("*.tmp"):
                left.unlink()


def save(samples: Samples, path: Path, *, overwrite: bool) -> None:
    """Writes samples to one file, whole or not at all; see `Samples.save`."""
    if not overwrite and (path.exists() or _any_part(path)):
        raise RunError(f"{path} exists already; choose another file, or pass overwrite=True.")
    temporary = path.with_name(path.name + ".tmp")
    lock = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(path)
        _require_space(temporary, samples.positions.nbytes + sum(getattr(samples, name).nbytes for name in FIELDS))
        with _hdf5(temporary, "w") as file:
            _create(file, samples.n, samples.positions.shape[1:], samples.positions.dtype)
            _fill(file, 0, samples)
            _describe(file, samples.n, samples.meta)
        # Parts of other samples must not be taken as a continuation of these.
        shutil.rmtree(parts_folder(path), ignore_errors=True)
        files.commit(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"cannot write {path}: {reason}.") from error
    finally:
        if lock is not None:
            lock.release()


def lock_file(path: Path) -> Path:
    """The file that writers of a samples file lock."""
    return path.with_name(f".{path.name}.lock")


def locked(path: Path) -> "FileLock":
    """The lock of a samples file, held by this process until it is released or the process ends.

    Raises:
        RunError: if another writer holds it.
        OSError: if it cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file(path), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"another writer has {path} open; wait until it has finished, or choose another file.") from error
    return lock


def load(path: Path) -> Samples:
    """Reads the file and the parts that continue it; see `Samples.load`."""
    if not path.is_file() and not _part_chain(path):
        raise DataError(f"there are no samples at {path}; make them with `boltzflow sample`.")
    whole = [path] if path.is_file() else []
    return Samples.concatenate([_read(file) for file in whole + [part for _, part in _part_chain(path)]])


def parts_folder(path: Path) -> Path:
    """Where the appends of an unfinished file lie."""
    return path.with_name(path.name + ".parts")


def check_identity(path: Path, stored: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to mix samples of different origin.

    Raises:
        RunError: names the first thing that differs.
    """
    for key in IDENTITY:
        if key in stored and key in new and _plain(stored[key]) != _plain(new[key]):
            if key in IN_WORDS:
                raise RunError(
                    f"{path} holds samples that differ from the new ones in {IN_WORDS[key]}; choose another file for the new ones."
                )
            raise RunError(f"{path} holds samples with {key} {stored[key]!s}, not {new[key]!s}; choose another file for the new ones.")
    if (apart := difference(stored, new, ())) is not None:
        raise RunError(f"{path} holds samples that differ from the new ones in {apart}; choose another file for these.")


def _existing(path: Path) -> tuple[int, tuple[int, ...], dict[str, Any]] | None:
    """Number, shape of one configuration and meta of the samples at a path, from its file and parts; None if none can be read."""
    chain = _part_chain(path)
    if path.is_file():
        try:
            n, shape, meta = _inspect(path)
        except DataError:
            return None
    elif chain:
        n, (_, shape, meta) = 0, _inspect(chain[0][1])
    else:
        return None
    return n + sum(_inspect(part)[0] for _, part in chain), shape, meta


def _any_part(path: Path) -> bool:
    folder = parts_folder(path)
    return folder.is_dir() and any(folder.glob("*.h5"))


def _part_chain(path: Path) -> list[tuple[int, Path]]:
    """First sample and name of the parts that continue the file without a gap; unreadable ones end the chain."""
    try:
        expected = _inspect(path)[0] if path.is_file() else 0
    except DataError:
        return []
    chain = []
    for part in sorted(parts_folder(path).glob("*.h5")):
        if not part.stem.isdigit() or int(part.stem) != expected:
            continue
        try:
            n = _inspect(part)[0]
        except DataError:
            break
        chain.append((expected, part))
        expected += n
    return chain


def _inspect(path: Path) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    """Number, shape of one configuration, and meta.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    try:
        with _hdf5(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path} holds no boltzflow samples; it was made by something else.")
            if file.attrs["version"] > VERSION:
                raise DataError(f"{path} was written by a newer boltzflow (samples format {file.attrs['version']}); update boltzflow.")
            meta = json.loads(file.attrs["meta"])
            meta |= {name: file[name].asstr()[()] for name in _TEXTS if name in file}
            return int(file.attrs["n_written"]), file["positions"].shape[1:], meta
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged or not an HDF5 file ({error}); restore it or draw the samples again.") from error


def _read(path: Path) -> Samples:
    n, _, meta = _inspect(path)
    try:
        with _hdf5(path, "r") as file:
            columns = {name: file[name][:n] for name in FIELDS if name in file}
            if "log_weight" not in columns:
                columns["status"] = _with_hands(columns, meta)
            return Samples(positions=file["positions"][:n], **columns, meta=meta)
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it or draw the samples again.") from error


def _with_hands(columns: Mapping[str, Any], meta: Mapping[str, Any]) -> Any:
    """Status of samples of a file of version 1, which tells those of another hand by their infinite energy and their number alone."""
    infinite = (columns["status"] == 0) & np.isposinf(columns["u"])
    return np.where(infinite, OTHER_HAND, columns["status"]) if infinite.sum() == meta.get("other_hand", 0) else columns["status"]


def _join(path: Path, temporary: Path, chain: list[tuple[int, Path]]) -> None:
    """Copies the file, where there is one, and its parts into a new file that then takes the name."""
    sources = ([path] if path.is_file() else []) + [part for _, part in chain]
    facts = [_inspect(source) for source in sources]
    total = sum(n for n, _, _ in facts)
    meta = {**facts[0][2], **summed([fact[2] for fact in facts])}
    _require_space(temporary, sum(source.stat().st_size for source in sources))
    with _hdf5(temporary, "w") as file:
        for start, source in zip(itertools.accumulate((n for n, _, _ in facts), initial=0), sources, strict=False):
            samples = _read(source)
            if start == 0:
                _create(file, total, samples.positions.shape[1:], samples.positions.dtype)
            _fill(file, start, samples)
        _describe(file, total, meta)
    files.commit(temporary, path)


def _hdf5(source: Any, mode: str) -> Any:
    # Untyped, because h5py's own types make every item a union that no operation fits.
    return h5py.File(source, mode)


def _create(file: Any, n: int, shape: tuple[int, ...], dtype: Any) -> None:
    row = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    rows = max(1, min(n, _CHUNK_BYTES // row))
    chunked = {"chunks": (rows, *shape), "maxshape": (None, *shape)} if n else {"maxshape": (None, *shape)}
    file.create_dataset("positions", shape=(n, *shape), dtype=dtype, **chunked)
    for name, column_dtype in FIELDS.items():
        file.create_dataset(name, shape=(n,), dtype=column_dtype, maxshape=(None,), **({"chunks": (min(n, 65536),)} if n else {}))


def _fill(file: Any, start: int, samples: Samples) -> None:
    file["positions"][start : start + samples.n] = samples.positions
    for name in FIELDS:
        file[name][start : start + samples.n] = getattr(samples, name)


def _describe(file: Any, n: int, meta: Mapping[str, Any]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["about"] = ABOUT
    file.attrs["n_written"] = n
    file.attrs["meta"] = json.dumps(_plain({key: value for key, value in meta.items() if key not in _TEXTS}))
    for name in _TEXTS:
        if meta.get(name):
            file.create_dataset(name, data=str(meta[name]))


def _require_space(path: Path, size: int) -> None:
    """Raises OSError where a file of this size, and HDF5's tables in it, cannot be written.

    Asked beforehand because HDF5 (2.0) does not survive a full disk: it takes the process down when it closes the file.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size + _TABLES_BYTES)
        else:
            file.truncate(size + _TABLES_BYTES)
            if shutil.disk_usage(path.parent).free < size + _TABLES_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path.unlink()


def _plain(value: Any) -> Any:
    """Meta as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _origin(meta: Mapping[str, Any]) -> str:
    stated = [f"{key} {meta[key]}" for key in ("target", "model", "seed") if meta.get(key) is not None]
    return f" ({', '.join(stated)})" if stated else ""
