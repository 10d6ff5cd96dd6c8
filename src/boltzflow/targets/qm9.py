"""Positions of the 19-atom molecules of QM9, a density that is known by its frames alone."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float

from boltzflow.errors import DataError
from boltzflow.targets.base import Target

_ATOMS = 19
# A row holds all properties of a molecule; the longest exceed the csv module's usual limit.
_LONGEST_FIELD = 10_000_000


def qm9_positional() -> Target:
    """QM9-positional: positions in Å of all QM9 molecules of 19 atoms, elements ignored, so that all atoms are interchangeable.

    The frames are equilibrium geometries of different molecules, not samples of one Boltzmann density: there is no energy, hence no
    reweighting, and a flow is judged by its NLL. Sources: Garcia Satorras et al., NeurIPS 2021, arXiv:2105.09016, section 5.2; data by
    Ramakrishnan et al., Scientific Data 2014, doi:10.1038/sdata.2014.22, read from the Python package qm9pack.

    Returns:
        The target, without energy, in Å.
    """
    return Target(
        name="qm9_positional",
        n_particles=_ATOMS,
        dimension=3,
        energy_function=None,
        classes=(0,) * _ATOMS,
        # Of a chiral molecule QM9 holds one enantiomer.
        reflections=False,
        units="angstrom",
        frames=read_frames,
    )


def read_frames(folder: Path | None = None) -> Float[np.ndarray, "n 19 3"]:
    """Positions in Å of all molecules of 19 atoms, in the order of the package's files.

    Args:
        folder: where qm9_part1.csv to qm9_part3.csv lie; None: in the installed qm9pack.

    Raises:
        DataError: if they are not there.
    """
    if folder is None:
        # Found, not imported: the package needs libraries that reading its files does not.
        package = importlib.util.find_spec("qm9pack")
        places = [] if package is None else list(package.submodule_search_locations or [])
        folder = Path(places[0]) / "data" if places else Path("qm9pack/data")
    parts = sorted(folder.glob("qm9_part*.csv"))
    if not parts:
        raise DataError(f"there are no files qm9_part*.csv in {folder}; install them with `pip install --no-deps qm9pack` (225 MB).")
    frames, part = [], folder
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        for part in parts:
            with part.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if int(row["N_atoms"]) == _ATOMS:
                        frames.append(_numbers(row["XYZ_Ang"], part))
    except (KeyError, ValueError) as error:
        raise DataError(f"{part} is not as qm9pack has it ({error}); install the package again.") from error
    finally:
        csv.field_size_limit(limit)
    return np.stack(frames)


def _numbers(text: str, part: Path) -> Float[np.ndarray, "19 3"]:
    values = np.array([float(word) for word in text.replace("[", " ").replace("]", " ").split(",")])
    if values.size != 3 * _ATOMS:
        raise ValueError(f"{values.size} coordinates in {part.name}")
    return values.reshape(_ATOMS, 3)
