"""Trajectories that other programs read."""

import contextlib
import errno
import filecmp
import importlib.util
import io
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float, Shaped

from boltzflow import datasets, files
from boltzflow.analysis import correlation
from boltzflow.chemistry.openmm_systems import import_openmm
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, RunError
from boltzflow.sampling.samples import Samples
from boltzflow.targets import description

TEXT_FORMATS = {".xyz": "plain coordinates", ".extxyz": "coordinates with u, log_q and log_weight of each frame"}
TOPOLOGY_FORMATS = {".pdb": "save_pdb", ".xtc": "save_xtc", ".dcd": "save_dcd", ".h5": "save_hdf5"}
WITH_WEIGHTS = (".extxyz", ".h5")
"""The formats that hold u, log_q and log_weight of each frame of samples."""
ANGSTROM_PER_NM = 10.0
# Formats whose writers do not look at what the system says of each write.
_UNCHECKED = (".xtc", ".dcd", ".h5")
_FRAMES_AT_ONCE = 10_000
# Free bytes of a disk that counts as full.
_ROOM = 65536
_ATOM_RECORDS = ("ATOM", "HETATM")


class _Frames(NamedTuple):
    """What is written: positions, values of each frame by name, and what the source says of all of them."""

    positions: Shaped[np.ndarray, "n N D"]
    values: Mapping[str, Float[np.ndarray, " n"]]
    name: str
    units: str | None
    structure: str
    molecule: str = ""


def read(path: str | Path) -> Samples | Dataset:
    """The samples or the data set that a file holds.

    Raises:
        DataError: if there is no such file, or it holds neither.
    """
    return datasets.read(path) if datasets.holds(path) else Samples.load(path)


def export(
    samples: "Samples | Dataset | Shaped[np.ndarray, 'n N D']",
    path: str | Path,
    topology: Any = None,
    *,
    resampled: bool = False,
    n: int | None = None,
    seed: int = 0,
    units: str | None = None,
    symbols: Sequence[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Writes frames as .xyz, .extxyz, or, with a topology, .pdb, .xtc, .dcd or MDTraj's .h5.

    Samples and data sets of a molecule bring its topology along. Samples without weight (failed solves, infinite energies) are left
    out. Frames of samples are weighted: .extxyz and .h5 hold u, log_q and log_weight of each, and `resampled` makes a trajectory in
    which every frame counts alike. Molecules are written in each format's own unit (Ångström in text, PDB and DCD, nm in XTC and HDF5),
    reduced units as they are. Planar systems get z = 0.

    Args:
        samples: Samples, a Dataset, or positions (n, N, D).
        path: the file to write; its ending chooses the format.
        topology: an mdtraj or OpenMM topology, or a file with one (such as a .pdb); positions are then in nm. None: that of the samples.
        resampled: draw equally weighted frames with the weights instead of writing the samples.
        n: frames to write; None: all, or as many as there are samples. Of a data set they are spread over all its chains.
        seed: seed of the resampling.
        units: "nm" or "reduced"; None: as the samples say, else "nm" with a topology and "reduced" without.
        symbols: N element symbols for the text formats; None: the topology's, else X.
        overwrite: replace the file if it is there and holds something else.

    Returns:
        The number of frames written, or found there.

    Raises:
        DataError: if the ending is unknown, needs a topology that is missing or does not fit, or nothing can be written.
        RunError: if the file holds something else and `overwrite` is False, or it cannot be written.
    """
    path = files.named(path)
    suffix = path.suffix.lower()
    known = [*TEXT_FORMATS, *TOPOLOGY_FORMATS]
    if suffix not in known:
        ending = f"the ending {suffix!r}" if suffix else "a name without ending"
        raise DataError(f"cannot export to {path}: {ending} names no known format; known are {', '.join(known)}.")
    files.require_writable(path, longest=255)
    frames = frames_of(samples, resampled, n, seed=seed)
    if suffix in TOPOLOGY_FORMATS and topology is None and not frames.structure:
        raise DataError(
            f"{suffix} needs a topology and {frames.name or 'this system'} has none; write .xyz or .extxyz, or name a file with topology= "
            "(--topology)."
        )
    positions = frames.positions
    if len(positions) == 0:
        raise DataError(f"there is no frame to write to {path}: no sample has weight.")
    positions = np.pad(positions, ((0, 0), (0, 0), (0, 3 - positions.shape[2])))
    if topology is not None:
        topology = topology_of(topology, positions.shape[1])
    elif suffix in TOPOLOGY_FORMATS:
        topology = stored_topology(frames, positions.shape[1], suffix)
    units = units or frames.units or ("nm" if topology is not None else "reduced")

    # A short name, for names can be as long as a folder takes.
    temporary = path.with_name(f".boltzflow-{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.writing(path, temporary=temporary):
            if suffix in TOPOLOGY_FORMATS:
                _write_with_mdtraj(positions, topology, temporary, suffix, frames.values)
            else:
                symbols = symbols_of(symbols, topology, frames, positions.shape[1])
                _write_text(positions, symbols, units, frames.values, suffix == ".extxyz", temporary)
            # The same bytes again do no harm.
            if path.exists() and not overwrite and not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
                raise RunError(f"{path} exists already and holds something else; choose another file, or pass overwrite=True.")
    except (OSError, UnicodeEncodeError, RuntimeError) as error:
        raise RunError(f"cannot write {path}: {_reason(error, path)}.") from error
    return len(positions)


def _reason(error: Exception, path: Path) -> str:
    """What went wrong, in one line; HDF5's own account of a full disk fills a screen."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < _ROOM:
            return os.strerror(errno.ENOSPC)
    return f"{' '.join(str(error).split()).rstrip('.')}; the disk may be full, or a limit on the size of files reached"


class _IncompleteError(OSError):
    """A file that its writer left incomplete without a word."""


def frames_of(samples: Any, resampled: bool, n: int | None, *, seed: int) -> _Frames:
    """The frames to write of whatever was given."""
    if isinstance(samples, Samples):
        return _of_samples(samples, resampled, n, seed)
    if isinstance(samples, Dataset):
        if resampled and samples.log_weight is None:
            raise DataError("the frames of a data set count alike already; write them as they are.")
        samples = samples.equally_weighted(n, seed=seed) if resampled else samples
        chosen = np.arange(samples.n)
        if n is not None and n < samples.n:
            # Evenly over all chains; where frames lie sweep by sweep, a stride of theirs might be that of the chains.
            chosen = samples.in_order_of_chains()[np.linspace(0, samples.n - 1, n).astype(np.int64)]
        values = {} if samples.log_weight is None else {"log_weight": samples.log_weight[chosen]}
        name = samples.fingerprint.partition("(")[0]
        return _Frames(samples.positions[chosen], values, name, samples.units, samples.structure, samples.molecule)
    if resampled:
        raise DataError("bare positions carry no weights to resample with; pass Samples, or resampled=False.")
    positions = np.asarray(samples)
    if positions.ndim != 3 or positions.shape[2] not in (1, 2, 3):
        raise DataError(f"positions must have shape (n, N, D) with D up to 3, but have shape {positions.shape}.")
    positions = positions[np.isfinite(positions).all(axis=(1, 2))]
    return _Frames(positions if n is None else positions[correlation.spread(len(positions), n, seed=seed)], {}, "", None, "")


def _of_samples(samples: Samples, resampled: bool, n: int | None, seed: int) -> _Frames:
    """Samples that have weight, or frames drawn with the weights."""
    from boltzflow.analysis import weights

    log_w = samples.log_weight
    if resampled:
        chosen = weights.resample_indices(log_w, samples.n if n is None else n, seed=seed)
    else:
        chosen = np.flatnonzero(np.isfinite(log_w) & np.isfinite(samples.positions).all(axis=(1, 2)))
        chosen = chosen if n is None else chosen[correlation.spread(chosen.size, n, seed=seed)]
    values = {
        "u": samples.u[chosen],
        "log_q": samples.log_q[chosen],
        # The weights of resampled frames are spent.
        "log_weight": np.zeros(len(chosen)) if resampled else log_w[chosen],
    }
    meta = samples.meta
    texts = (meta.get("structure") or "", meta.get("molecule") or "")
    return _Frames(samples.positions[chosen], values, meta.get("target") or "", meta.get("units"), *texts)


def _write_text(
    positions: Shaped[np.ndarray, "n N 3"],
    symbols: Sequence[str],
    units: str,
    values: Mapping[str, Float[np.ndarray, " n"]],
    extended: bool,
    path: Path,
) -> None:
    scale = ANGSTROM_PER_NM if units == "nm" else 1.0
    written_units = "Angstrom" if units == "nm" else units
    body = "".join(f"{symbol} %.8f %.8f %.8f\n" for symbol in symbols)
    with path.open("w", encoding="utf-8") as file:
        for frame, configuration in enumerate(positions.astype(np.float64) * scale):
            if extended:
                about = "".join(f" {name}={column[frame]:.8g}" for name, column in values.items())
                comment = f'Properties=species:S:1:pos:R:3{about} frame={frame} units="{written_units}" pbc="F F F"'
            else:
                comment = f"frame {frame}, positions in {written_units} units" if units != "nm" else f"frame {frame}, positions in Angstrom"
            file.write(f"{len(symbols)}\n{comment}\n" + body % tuple(configuration.ravel()))


def symbols_of(symbols: Sequence[str] | None, topology: Any, frames: _Frames, n_particles: int) -> Sequence[str]:
    """Element symbols that are given, or those that topology or frames tell; X of what is no atom."""
    if symbols is None and topology is not None:
        return [atom.element.symbol if atom.element else "X" for atom in topology.atoms]
    if symbols is None and frames.molecule and (elements := description.read(frames.molecule).elements):
        return elements
    if symbols is None:
        # Columns 77 and 78 of a PDB file; no other package is needed for them.
        lines = [line for line in frames.structure.splitlines() if line.startswith(_ATOM_RECORDS)]
        return [line[76:78].strip() or "X" for line in lines] or ["X"] * n_particles
    if len(symbols) != n_particles:
        raise DataError(f"there are {len(symbols)} symbols for {n_particles} particles; pass one per particle.")
    return symbols


def import_mdtraj() -> Any:
    """The package, or a sentence where it is missing."""
    try:
        import mdtraj
    except ImportError as error:
        raise DataError("topologies need mdtraj; install it with: pip install 'boltzflow[molecules]'.") from error
    return mdtraj


def topology_of(topology: Any, n_particles: int) -> Any:
    """An mdtraj topology of whatever was given, which must fit."""
    mdtraj = import_mdtraj()
    if isinstance(topology, str | Path):
        if not Path(topology).is_file():
            raise DataError(f"there is no topology file {topology}.")
        try:
            topology = mdtraj.load_topology(str(topology))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"cannot read a topology from {topology}: {error}") from error
    elif not isinstance(topology, mdtraj.Topology):
        try:
            topology = mdtraj.Topology.from_openmm(topology)
        except (AttributeError, TypeError, ImportError) as error:
            raise DataError(
                f"a topology must be one of mdtraj or OpenMM or the name of a file, but is {type(topology).__name__}."
            ) from error
    return _fitting(topology, n_particles)


def stored_topology(frames: _Frames, n_particles: int, suffix: str) -> Any:
    """The topology of a molecule that its samples or data set brought along; with names that fit for a PDB file."""
    known = description.read(frames.molecule) if frames.molecule else None
    if known is None or known.topology is None:
        topology = import_openmm().app.PDBFile(io.StringIO(frames.structure)).topology
    else:
        topology = description.for_pdb(known.topology, known.bonds) if suffix == ".pdb" else known.topology
    return _fitting(import_mdtraj().Topology.from_openmm(topology), n_particles)


def _fitting(topology: Any, n_particles: int) -> Any:
    if topology.n_atoms != n_particles:
        raise DataError(f"the topology has {topology.n_atoms} atoms but the samples have {n_particles} particles; pass the matching one.")
    return topology


def _write_with_mdtraj(
    positions: Shaped[np.ndarray, "n N 3"], topology: Any, path: Path, suffix: str, values: Mapping[str, Float[np.ndarray, " n"]]
) -> None:
    if suffix == ".h5" and importlib.util.find_spec("tables") is None:
        raise DataError(".h5 needs PyTables; install it with: pip install 'boltzflow[molecules]'.")
    trajectory = import_mdtraj().Trajectory(positions.astype(np.float32), topology)
    with _plain_name(path) as name:
        try:
            getattr(trajectory, TOPOLOGY_FORMATS[suffix])(name)
            if suffix == ".h5":
                with h5py.File(path, "a") as file:
                    for column, numbers in values.items():
                        file.create_dataset(column, data=numbers)
        except Exception as error:
            if isinstance(error, OSError) and error.strerror:
                raise
            # MDTraj's writers stumble over a full disk in many ways, a TypeError among them.
            raise _IncompleteError(f"MDTraj's writer of {suffix} failed with {type(error).__name__}") from error
        if suffix in _UNCHECKED:
            _check_complete(name, suffix, trajectory)


@contextlib.contextmanager
def _plain_name(path: Path) -> Iterator[str]:
    """A name of a file in ASCII, for the writers in C that take no other: through a link to its folder, on the same disk."""
    folder = path.parent.resolve()
    if str(folder).isascii():
        yield str(folder / path.name)
        return
    if not tempfile.gettempdir().isascii():
        raise RunError(
            f"cannot write {path.suffix} in {folder}: its writer takes ASCII names alone, and the folder for temporary files has another; "
            "set TMPDIR to such a one."
        )
    with tempfile.TemporaryDirectory(prefix="boltzflow-") as place:
        link = Path(place) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield str(link / path.name)


def _check_complete(name: str, suffix: str, trajectory: Any) -> None:
    """Reads back what a full disk would have cost: the last frame, and all of HDF5, which does not write from front to back.

    Raises:
        OSError: if it is not there, or another.
    """
    try:
        if suffix == ".h5":
            with h5py.File(name) as file:
                parts = np.array_split(np.arange(len(trajectory)), -(-len(trajectory) // _FRAMES_AT_ONCE))
                whole = all(np.array_equal(_rows(file["coordinates"], part), trajectory.xyz[part]) for part in parts)
        else:
            with import_mdtraj().open(name) as file:
                count = len(file)
                file.seek(max(0, count - 1))
                last = np.asarray(file.read(n_frames=1)[0])[-1] / (ANGSTROM_PER_NM if suffix == ".dcd" else 1.0)
            whole = count == len(trajectory) and np.allclose(last, trajectory.xyz[-1], rtol=1e-3, atol=2e-3)
    except (OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _IncompleteError("what was written cannot be read back") from error
    if not whole:
        raise _IncompleteError("what was written is not complete")


def _rows(stored: Any, rows: np.ndarray) -> np.ndarray:
    return stored[rows[0] : rows[-1] + 1]
