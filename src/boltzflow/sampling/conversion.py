"""Samples and frames as objects of other packages."""

from typing import Any

import numpy as np

from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.sampling import export
from boltzflow.sampling.samples import Samples


def to_mdtraj(samples: Samples | Dataset, topology: Any = None, *, resampled: bool = False, n: int | None = None, seed: int = 0) -> Any:
    """An `mdtraj.Trajectory`, in nm.

    A trajectory has no place for weights: the frames of samples are those that have weight, in their order, or with `resampled` frames that
    all count alike.

    Args:
        samples: Samples or a Dataset.
        topology: an mdtraj or OpenMM topology, or a file with one; None: that of the molecule.
        resampled: draw equally weighted frames by the weights.
        n: how many frames; None: all, or as many as there are samples.
        seed: of the resampling.

    Raises:
        DataError: if there is no topology or it does not fit, the particles are not in three dimensions, or mdtraj is not installed.
    """
    frames = export.frames_of(samples, resampled, n, seed=seed)
    positions = np.asarray(frames.positions)
    if positions.shape[2] != 3:
        raise DataError(f"a trajectory is of atoms in three dimensions, but these have {positions.shape[2]}.")
    if topology is None and not frames.structure:
        raise DataError(f"a trajectory needs a topology and {frames.name or 'this system'} has none; pass topology=.")
    found = export.stored_topology(frames, positions.shape[1], "") if topology is None else export.topology_of(topology, positions.shape[1])
    scale = 0.1 if frames.units == "angstrom" else 1.0
    return export.import_mdtraj().Trajectory((scale * positions).astype(np.float32), found)


def to_ase(samples: Samples | Dataset, *, resampled: bool = False, n: int | None = None, seed: int = 0) -> list[Any]:
    """A list of `ase.Atoms`, in Å for molecules, with u, log_q and log_weight of each in its `info`.

    Args:
        samples: Samples or a Dataset; samples without weight are left out.
        resampled: draw equally weighted frames by the weights.
        n: how many; None: all, or as many as there are samples.
        seed: of the resampling.

    Raises:
        DataError: if ASE is not installed.
    """
    try:
        from ase import Atoms  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError("ASE's atoms need the package ase; install it with: pip install 'boltzflow[xtb]'.") from error
    frames = export.frames_of(samples, resampled, n, seed=seed)
    positions = np.asarray(frames.positions, np.float64)
    positions = np.pad(positions, ((0, 0), (0, 0), (0, 3 - positions.shape[2])))
    symbols = export.symbols_of(None, None, frames, positions.shape[1])
    scale = export.ANGSTROM_PER_NM if frames.units == "nm" else 1.0
    values = {name: column.tolist() for name, column in frames.values.items()}
    return [Atoms(symbols, scale * x, info={name: column[place] for name, column in values.items()}) for place, x in enumerate(positions)]
