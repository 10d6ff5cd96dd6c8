"""Files of frames as they are: data sets of this package and NumPy arrays, read but not checked against a target."""

import os
from pathlib import Path

import h5py
import numpy as np

from boltzflow.datasets import frame_weights, trajectories
from boltzflow.datasets.dataset import FORMAT, FORMAT_VERSION, Dataset
from boltzflow.errors import DataError


def is_trajectory(path: Path) -> bool:
    """Whether a file is of another program's: by its ending, or HDF5 that is not this package's and says whose it is."""
    if path.suffix.lower() in trajectories.FORMATS:
        return True
    try:
        with h5py.File(path, "r") as file:
            return "Pande" in str(file.attrs.get("conventions", ""))
    except OSError:
        return False


def holds(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a data set of this package's format.

    Args:
        path: the file.
    """
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("format") == FORMAT
    except OSError:
        return False


def read_numpy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames, and their log-weights if the file has any."""
    try:
        # Opened here, for np.load leaves the file open where it fails.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return loaded, None
            names = loaded.files
            others = [name for name in names if name != frame_weights.NAME]
            frame_weights.refuse_others(names, str(path))
            if "positions" in names or len(others) == 1:
                positions = loaded["positions" if "positions" in names else others[0]]
                return positions, loaded[frame_weights.NAME] if frame_weights.NAME in names else None
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is not a readable NumPy file of numbers, or it is truncated ({_first_line(error)}); make it again."
        ) from error
    raise DataError(f"{path} holds the arrays {', '.join(sorted(names)) or 'none'}; store the frames under the name 'positions'.")


def read(path: str | os.PathLike[str]) -> Dataset:
    """Reads a data set of this package's format as it is, to look at; `load` checks it against its target.

    Args:
        path: the file.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    if is_trajectory(Path(path)):
        raise DataError(f"{path} is a trajectory of another program, which is read for a target: datasets.load(path, target).")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT or "positions" not in file:
                raise DataError(f"{path} is an HDF5 file but not a boltzflow data set; give .npy or .npz frames, or a `reference` file.")
            version = int(str(file.attrs["format_version"]))
            if version > FORMAT_VERSION:
                raise DataError(f"{path} has data format {version}, this version of boltzflow reads up to {FORMAT_VERSION}; update it.")
            provenance = {key: _plain(value) for key, value in file["provenance"].attrs.items()}
            texts = {name: str(file[name].asstr()[()]) for name in ("structure", "molecule") if name in file}  # pyright: ignore
            return Dataset(
                positions=np.asarray(file["positions"]),
                fingerprint=str(file.attrs["fingerprint"]),
                units=str(file.attrs["units"]),
                provenance=provenance,
                energies=np.asarray(file["energies"], np.float64) if "energies" in file else None,
                log_weight=np.asarray(file[frame_weights.NAME], np.float64) if frame_weights.NAME in file else None,
                **texts,
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a readable HDF5, .npy or .npz file, or it is truncated ({_first_line(error)}); make it again."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plain(value: object) -> str | float | int:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | float | int) else str(value)
