"""The frames that a run learns from."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from boltzflow import datasets
from boltzflow.analysis import weights
from boltzflow.config import RunConfig
from boltzflow.datasets import Dataset
from boltzflow.errors import BoltzflowError, ConfigError
from boltzflow.progress import Progress
from boltzflow.targets import Target
from boltzflow.targets.molecule_folder import FILES, target_of
from boltzflow.training.folder import require_same_frames


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of a run.

    Attributes:
        all: as they lie in the run folder.
        train: those that train.
        validation: those held out.
        seconds: what making them took; None where they came from outside.
    """

    all: Dataset
    train: Dataset
    validation: Dataset
    seconds: float | None


def frames_of(
    config: RunConfig,
    target: Target,
    folder: Path,
    dataset: Dataset | None,
    progress: Progress,
    there: set[str],
    accept: Callable[[Dataset], None],
) -> Frames:
    """The frames of a run, made or read where the folder does not hold them yet.

    Args:
        config: of the run.
        target: the target.
        folder: of the run.
        dataset: the frames, if they are neither generated nor read from `config.data.path`.
        progress: told how far making them is.
        there: names of what was in the folder before; if there are no frames, the rest goes again.
        accept: refuses weighted frames that are no good for this run.

    Raises:
        DataError: if the data cannot be used.
    """
    if nothing_to_read(config, dataset):
        none = Dataset(np.zeros((0, target.n_particles, target.dimension), np.float32), target.fingerprint, target.units)
        return Frames(none, none, none, None)
    try:
        frames, seconds = _data(config, target, folder, dataset, progress)
        if frames.log_weight is not None:
            accept(frames)
        return Frames(frames, *frames.split(validation=config.data.validation, seed=config.data.split_seed), seconds)
    except BoltzflowError:
        from boltzflow.reference import journal

        own = folder / "data.h5"
        if any(journal.folder_of(own).glob("*.npz")):
            # Interrupted, or the disk is full: the run goes on from there.
            raise
        # The folder is free again for a run with better data.
        journal.remove(own)
        for name in {"config.yaml", "versions.json", "data.h5", *FILES} - there:
            (folder / name).unlink(missing_ok=True)
        raise


def nothing_to_read(config: RunConfig, dataset: Dataset | None) -> bool:
    """Whether a run has no frames: none are given, named or to be made."""
    return dataset is None and config.data.path is None and config.data.n == 0


def _data(config: RunConfig, target: Target, folder: Path, dataset: Dataset | None, progress: Progress) -> tuple[Dataset, float | None]:
    """The frames, and the seconds that making them took (None where they came from outside)."""
    from boltzflow import reference

    own = folder / "data.h5"
    allow = config.data.allow_virial_mismatch
    if not own.is_file():
        if dataset is not None:
            datasets.checked(dataset, target, allow_virial_mismatch=allow).save(own)
        elif config.data.path is not None:
            datasets.load(config.data.path, target, **_reading(config), allow_virial_mismatch=allow).save(own)
        else:
            # A run that is killed on the way goes on from there.
            result = reference.sample(target, config.data.n, seed=config.data.seed, progress=progress, out=own, resume=True)
            progress.message(result.sentence())
    # Always as it is read back: a resumed run must see the same bits, and reading centres the frames once more.
    frames = datasets.load(own, target, allow_virial_mismatch=allow)
    seconds = frames.provenance.get("seconds")
    return frames, float(seconds) if seconds is not None else None


def require_named_frames(config: RunConfig, folder: Path, target: Target | None) -> None:
    """Refuses to go on with a run whose file of frames, `data.path`, holds other frames by now; one that is gone is not missed.

    Raises:
        RunError: says which frames the run has.
        DataError: if the file cannot be read.
    """
    path, own = config.data.path, folder / "data.h5"
    if path is None or not Path(path).is_file() or not own.is_file() or Path(path).resolve() == own.resolve():
        return
    target = target_of(config.target, folder) if target is None else target
    require_same_frames(folder, datasets.frames_in(path, target, **_reading(config)), f"the frames in {path}")


def _reading(config: RunConfig) -> dict[str, str | None]:
    """What the configuration says of the file of frames beside its name."""
    return {name: getattr(config.data, name) for name in ("topology", "selection", "log_weight")}


def scale_of(config: RunConfig, target: Target, train_set: Dataset) -> float:
    """One unit of the prior in data units.

    Raises:
        ConfigError: if it is not given, and there is nothing to take it from.
    """
    if config.flow.scale is not None:
        return config.flow.scale
    if target.units == "reduced":
        return 1.0
    if train_set.n:
        if train_set.log_weight is None:
            return float(np.std(train_set.positions))
        # Of centred frames the mean is zero.
        return float(np.sqrt(np.sum(weights.normalized(train_set.log_weight) * np.mean(np.square(train_set.positions), axis=(1, 2)))))
    if target.structure is not None:
        # At any temperature a molecule is about as large as where its energy is least.
        return float(np.std(target.structure - target.structure.mean(axis=0)))
    raise ConfigError(
        f"flow.scale, the length in {target.units} that is one unit of the prior, is taken from frames where there are some; give it, such "
        "as flow.scale=0.2."
    )
