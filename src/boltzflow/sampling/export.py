"""Trajectories that other programs read."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from boltzflow.errors import DataError, RunError
from boltzflow.sampling.samples import Samples

TEXT_FORMATS = {".xyz": "plain coordinates", ".extxyz": "coordinates with u, log_q and log_weight of each frame"}
TOPOLOGY_FORMATS = {".pdb": "save_pdb", ".xtc": "save_xtc", ".dcd": "save_dcd"}
ANGSTROM_PER_NM = 10.0


def export(
    samples: "Samples | Shaped[np.ndarray, 'n N D']",
    path: str | Path,
    *,
    topology: Any = None,
    resampled: bool = False,
    n: int | None = None,
    seed: int = 0,
    units: str | None = None,
    symbols: Sequence[str] | None = None,
) -> int:
    """Writes frames as .xyz, .extxyz, or, with a topology, .pdb, .xtc or .dcd.

    Samples without weight (failed solves, infinite energies) are left out. Frames of samples are weighted: give `resampled` for a
    trajectory in which every frame counts alike. Molecules are written in each format's own unit (Ångström in text, PDB and DCD, nm in
    XTC), reduced units as they are. Planar systems get z = 0.

    Args:
        samples: Samples, or positions (n, N, D).
        path: the file to write; its ending chooses the format. An existing file is replaced.
        topology: an mdtraj or OpenMM topology, or a file with one (such as a .pdb); positions are then in nm.
        resampled: draw equally weighted frames with the weights instead of writing the samples.
        n: frames to write; None: all, or as many as there are samples.
        seed: seed of the resampling.
        units: "nm" or "reduced"; None: as the samples say, else "nm" with a topology and "reduced" without.
        symbols: N element symbols for the text formats; None: the topology's, else X.

    Returns:
        The number of frames written.

    Raises:
        DataError: if the ending is unknown, needs a topology that is missing or does not fit, or nothing can be written.
        RunError: if the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    known = [*TEXT_FORMATS, *TOPOLOGY_FORMATS]
    if suffix not in known:
        ending = f"the ending {suffix!r}" if suffix else "a name without ending"
        raise DataError(f"cannot export to {path}: {ending} names no known format; known are {', '.join(known)}.")
    if suffix in TOPOLOGY_FORMATS and topology is None:
        name = samples.meta.get("target") if isinstance(samples, Samples) else None
        raise DataError(f"{suffix} needs a topology and {name or 'this system'} has none; write .xyz or .extxyz, or pass topology=.")

    comments: Callable[[int], str] | None = None
    if isinstance(samples, Samples):
        units = units or samples.meta.get("units")
        chosen, comments = _choose(samples, resampled, n, seed)
        positions = samples.positions[chosen]
    else:
        if resampled:
            raise DataError("bare positions carry no weights to resample with; pass Samples, or resampled=False.")
        positions = np.asarray(samples)
        if positions.ndim != 3 or positions.shape[2] not in (1, 2, 3):
            raise DataError(f"positions must have shape (n, N, D) with D up to 3, but have shape {positions.shape}.")
        positions = positions[np.isfinite(positions).all(axis=(1, 2))][:n]
    if len(positions) == 0:
        raise DataError(f"there is no frame to write to {path}: no sample has weight.")
    positions = np.pad(positions, ((0, 0), (0, 0), (0, 3 - positions.shape[2])))
    topology = None if topology is None else _topology(topology, positions.shape[1])
    units = units or ("nm" if topology is not None else "reduced")

    temporary = path.with_name(f".{path.stem}.partial{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in TOPOLOGY_FORMATS:
            _write_with_mdtraj(positions, topology, temporary, TOPOLOGY_FORMATS[suffix])
        else:
            symbols = _symbols(symbols, topology, positions.shape[1])
            _write_text(positions, symbols, units, comments if suffix == ".extxyz" else None, suffix == ".extxyz", temporary)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}.") from error
    return len(positions)


def _choose(samples: Samples, resampled: bool, n: int | None, seed: int) -> tuple[np.ndarray, Callable[[int], str]]:
    """Indices of the frames to write, and what to say of each."""
    from boltzflow.analysis import weights

    log_w = samples.log_weight
    if resampled:
        chosen = weights.resample_indices(log_w, samples.n if n is None else n, seed=seed)
        # Their weights are spent.
        return chosen, lambda frame: f"u={samples.u[chosen[frame]]:.8g} log_q={samples.log_q[chosen[frame]]:.8g} log_weight=0"
    usable = np.isfinite(log_w) & np.isfinite(samples.positions).all(axis=(1, 2))
    chosen = np.flatnonzero(usable)[:n]

    def describe(frame: int) -> str:
        i = chosen[frame]
        return f"u={samples.u[i]:.8g} log_q={samples.log_q[i]:.8g} log_weight={log_w[i]:.8g}"

    return chosen, describe


def _write_text(
    positions: Shaped[np.ndarray, "n N 3"],
    symbols: Sequence[str],
    units: str,
    describe: Callable[[int], str] | None,
    extended: bool,
    path: Path,
) -> None:
    scale = ANGSTROM_PER_NM if units == "nm" else 1.0
    written_units = "Angstrom" if units == "nm" else units
    body = "".join(f"{symbol} %.8f %.8f %.8f\n" for symbol in symbols)
    with path.open("w", encoding="utf-8") as file:
        for frame, configuration in enumerate(positions.astype(np.float64) * scale):
            if extended:
                about = f" {describe(frame)}" if describe is not None else ""
                comment = f'Properties=species:S:1:pos:R:3{about} frame={frame} units="{written_units}" pbc="F F F"'
            else:
                comment = f"frame {frame}, positions in {written_units} units" if units != "nm" else f"frame {frame}, positions in Angstrom"
            file.write(f"{len(symbols)}\n{comment}\n" + body % tuple(configuration.ravel()))


def _symbols(symbols: Sequence[str] | None, topology: Any, n_particles: int) -> Sequence[str]:
    if symbols is None:
        return ["X"] * n_particles if topology is None else [atom.element.symbol if atom.element else "X" for atom in topology.atoms]
    if len(symbols) != n_particles:
        raise DataError(f"there are {len(symbols)} symbols for {n_particles} particles; pass one per particle.")
    return symbols


def _mdtraj() -> Any:
    try:
        import mdtraj
    except ImportError as error:
        raise DataError("topologies need mdtraj; install it with: pip install 'boltzflow[molecules]'.") from error
    return mdtraj


def _topology(topology: Any, n_particles: int) -> Any:
    mdtraj = _mdtraj()
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
    if topology.n_atoms != n_particles:
        raise DataError(f"the topology has {topology.n_atoms} atoms but the samples have {n_particles} particles; pass the matching one.")
    return topology


def _write_with_mdtraj(positions: Shaped[np.ndarray, "n N 3"], topology: Any, path: Path, method: str) -> None:
    trajectory = _mdtraj().Trajectory(positions.astype(np.float32), topology)
    getattr(trajectory, method)(str(path))


def formats() -> str:
    """The known endings in words, for the command line's help."""
    return ", ".join([*TEXT_FORMATS, *(f"{suffix} (with a topology)" for suffix in TOPOLOGY_FORMATS)])
