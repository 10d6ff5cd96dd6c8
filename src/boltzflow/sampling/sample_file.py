"""The HDF5 file of samples, and the parts that continue one that is being written.

An HDF5 file that is being written is unreadable once its writer is killed between two of its many small writes; flushing narrows that
window, and single-writer-multiple-reader mode leaves flags that need a repair tool and asks for a local file system. So nothing is ever
written in place. Each append makes a whole small file, `samples.h5.parts/<first sample>.h5`, which gets its name only once it is on the
disk; at the end the parts are joined into `samples.h5` by the same trick, and only then removed. A reader takes `samples.h5`, where there
is one, and every part that continues it without a gap.
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from boltzflow import files
from boltzflow.errors import DataError
from boltzflow.flows.status import Status
from boltzflow.sampling.samples import FIELDS, GROUPED, Samples

FORMAT = "boltzflow samples"
VERSION = 3
"""2 has log-weights, which 1 leaves to be computed; a reader of 1 would not know of the weights of thinned samples. 3 has groups of samples
that depend on one another; a reader of 2 would take them for independent ones, and other samples are still written as 2."""
ABOUT = (
    "log_weight = -u - log_q where nothing else was done to the samples, -inf where status != 0 or u or log_q is not finite. "
    "log_q lives on the zero-CoM subspace."
)

# Entries of the meta that have a dataset of their own: an attribute of HDF5 holds 64 kB, and large molecules need more.
_TEXTS = ("structure", "molecule")
_CHUNK_BYTES = 1 << 20
_TABLES_BYTES = 1 << 18


def load(path: str | Path, target: Any = None) -> Samples:
    """Reads a file of `Samples.save` or `SamplesWriter`, also one whose writer was killed.

    Args:
        path: the file.
        target: the Target that the samples must belong to; None takes any.

    Raises:
        DataError: if there is no such file, it holds no samples, or they belong to another target.
    """
    path = files.named(path)
    if not path.is_file() and not part_chain(path):
        raise DataError(f"there are no samples at {path}; make them with `boltzflow sample`.")
    whole = [path] if path.is_file() else []
    samples = Samples.concatenate([read(file) for file in whole + [part for _, part in part_chain(path)]])
    fingerprint = samples.meta.get("fingerprint")
    if target is not None and fingerprint != target.fingerprint:
        raise DataError(f"{path} holds samples of {fingerprint}, not of {target.fingerprint}; choose the matching target or file.")
    return samples


def parts_folder(path: Path) -> Path:
    """Where the appends of an unfinished file lie."""
    return path.with_name(path.name + ".parts")


def any_part(path: Path) -> bool:
    """Whether something continues a file, readable or not."""
    folder = parts_folder(path)
    return folder.is_dir() and any(folder.glob("*.h5"))


def part_chain(path: Path) -> list[tuple[int, Path]]:
    """First sample and name of the parts that continue the file without a gap; unreadable ones end the chain."""
    try:
        expected = inspect(path)[0] if path.is_file() else 0
    except DataError:
        return []
    chain = []
    for part in sorted(parts_folder(path).glob("*.h5")):
        if not part.stem.isdigit() or int(part.stem) != expected:
            continue
        try:
            n = inspect(part)[0]
        except DataError:
            break
        chain.append((expected, part))
        expected += n
    return chain


def inspect(path: Path) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    """Number, shape of one configuration, and meta.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    try:
        with hdf5(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path} holds no boltzflow samples; it was made by something else.")
            if file.attrs["version"] > VERSION:
                raise DataError(f"{path} was written by a newer boltzflow (samples format {file.attrs['version']}); update boltzflow.")
            meta = json.loads(file.attrs["meta"])
            # Its name in files of earlier days.
            meta |= {"other_stereoisomer": meta.pop("other_hand")} if "other_hand" in meta else {}
            meta |= {name: file[name].asstr()[()] for name in _TEXTS if name in file}
            return int(file.attrs["n_written"]), file["positions"].shape[1:], meta
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged or not an HDF5 file ({error}); restore it or draw the samples again.") from error


def read(path: Path) -> Samples:
    """The samples in one file.

    Raises:
        DataError: as `inspect`.
    """
    n, _, meta = inspect(path)
    try:
        with hdf5(path, "r") as file:
            columns = {name: file[name][:n] for name in FIELDS | GROUPED if name in file}
            if "log_weight" not in columns:
                columns["status"] = _with_stereoisomers(columns, meta)
            return Samples(positions=file["positions"][:n], **columns, meta=meta)
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); restore it or draw the samples again.") from error


def _with_stereoisomers(columns: Mapping[str, Any], meta: Mapping[str, Any]) -> Any:
    """Status of samples of a file of version 1, which tells other stereoisomers by their infinite energy and their number alone."""
    infinite = (columns["status"] == Status.SOLVED) & np.isposinf(columns["u"])
    return (
        np.where(infinite, Status.OTHER_STEREOISOMER, columns["status"])
        if infinite.sum() == meta.get("other_stereoisomer", 0)
        else columns["status"]
    )


def hdf5(source: Any, mode: str) -> Any:
    """An open HDF5 file, or one in memory."""
    # Untyped, because h5py's own types make every item a union that no operation fits.
    return h5py.File(source, mode)


def create(file: Any, n: int, like: Samples) -> None:
    """Makes the datasets of n samples that have the shape and the columns of others."""
    shape, dtype = like.positions.shape[1:], like.positions.dtype
    row = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    rows = max(1, min(n, _CHUNK_BYTES // row))
    chunked = {"chunks": (rows, *shape), "maxshape": (None, *shape)} if n else {"maxshape": (None, *shape)}
    file.create_dataset("positions", shape=(n, *shape), dtype=dtype, **chunked)
    for name, column_dtype in (FIELDS | GROUPED if like.grouped else FIELDS).items():
        file.create_dataset(name, shape=(n,), dtype=column_dtype, maxshape=(None,), **({"chunks": (min(n, 65536),)} if n else {}))


def fill(file: Any, start: int, samples: Samples) -> None:
    """Writes samples into the datasets from an index on."""
    file["positions"][start : start + samples.n] = samples.positions
    for name in FIELDS | GROUPED if "group" in file else FIELDS:
        file[name][start : start + samples.n] = getattr(samples, name)


def describe(file: Any, n: int, meta: Mapping[str, Any]) -> None:
    """Writes what the datasets hold, and the meta."""
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION if "group" in file else 2
    file.attrs["about"] = ABOUT
    file.attrs["n_written"] = n
    file.attrs["meta"] = json.dumps(plain({key: value for key, value in meta.items() if key not in _TEXTS}))
    for name in _TEXTS:
        if meta.get(name):
            file.create_dataset(name, data=str(meta[name]))


def require_space(path: Path, size: int) -> None:
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


def plain(value: Any) -> Any:
    """Meta as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
