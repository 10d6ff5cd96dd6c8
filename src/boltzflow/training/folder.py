"""The run folder: what it holds, and which configurations may go on in it."""

import dataclasses
import datetime
import hashlib
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from boltzflow import command, datasets, files
from boltzflow.config import RunConfig, differences
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import RunError
from boltzflow.models.versions import versions
from boltzflow.targets import Target, molecule_folder
from boltzflow.targets.sources import from_source

LOCK = ".lock"


_BOOKKEEPING = ("log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_n", "tensorboard")


def identity(config: RunConfig) -> str:
    """What a checkpoint must agree on to be continued: everything but the solver, how often is logged and saved, and the stages.

    The stages are left out so that a finished run can be given more of them; that those under way are the same is checked on its own.

    Only what differs from the defaults counts, so that an option that a later version adds does not orphan a run.
    """
    plain = differences(config)
    for name in ("description", "plugins", "stages"):
        plain.pop(name, None)
    for name in _BOOKKEEPING:
        plain.get("run", {}).pop(name, None)
    for options in plain.get("flow", {}).values():
        options.pop("solver", None)
    plain = {name: value for name, value in plain.items() if value not in ({}, {config.flow.variant: {}})}
    plain["flow"] = {config.flow.variant: plain.get("flow", {}).get(config.flow.variant, {})}
    return "configuration " + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def target_for(config: RunConfig, folder: Path) -> tuple[RunConfig, Target]:
    """The target of a configuration: the molecule that the folder keeps, the one that the configuration describes, or a registered one.

    Returns:
        The configuration with the target's name, and the target.

    Raises:
        TargetError: if there is none of these, or the molecule cannot be made.
    """
    if molecule_folder.holds(folder) or config.molecule.source is None:
        target = molecule_folder.target_of(config.target, folder)
    else:
        target = from_source(config.molecule)
    made = config.molecule.source is not None
    return (dataclasses.replace(config, target=target.name) if made else config), target


def locked(folder: Path) -> files.Lock:
    """Keeps the run folder to this process until the lock is released; it is made if need be, and goes again if nothing has come into it.

    Raises:
        RunError: if another process trains in the folder, or it cannot be written.
    """
    busy = f"another process is training in {folder}; wait until it has ended, or choose another folder. Nothing was changed."
    try:
        return files.Lock(folder / LOCK, busy)
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be written: {files.reason(error)}.") from error


def require_same_frames(folder: Path, frames: Dataset, source: str) -> None:
    """Refuses frames that are not those that a run was begun with.

    Args:
        folder: of the run.
        frames: those that were given.
        source: what they are called in the sentence.

    Raises:
        RunError: says which frames the run has.
    """
    own = folder / "data.h5"
    if not own.is_file():
        return
    kept = datasets.read(own)
    there, given = (np.asarray(part.positions, np.float32) for part in (kept, frames))
    if np.array_equal(there, given) and not _same_weights(kept.log_weight, frames.log_weight):
        raise RunError(
            f"{source} have other weights than those that the run in {folder} was begun with; give the same to continue it, or choose "
            "another folder."
        )
    if not np.array_equal(there, given):
        names = [f"{len(part)} frames, SHA-256 {_hash(part)}" for part in (given, there)]
        raise RunError(
            f"{source} ({names[0]}) are not those that the run in {folder} was begun with ({names[1]}); give the same frames to "
            "continue it, or choose another folder."
        )


def _same_weights(one: Float[np.ndarray, " n"] | None, other: Float[np.ndarray, " n"] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _hash(frames: Float[np.ndarray, "n N D"]) -> str:
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()[:12]


def open_folder(folder: Path, config: RunConfig, target: Target, resume: bool, dataset: Dataset | None) -> set[str]:
    """Makes the run folder, or checks that it holds this run; returns the names of what was in it.

    What the folder says of the run is left as it is until a checkpoint has been found to fit.

    Raises:
        RunError: if the folder cannot be written, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there_before = {path.name for path in folder.iterdir()} - {LOCK}
        existing, own = folder / "config.yaml", folder / "data.h5"
        if existing.is_file():
            there = config_io.load_config(existing)
            if not resume:
                raise RunError(f"{folder} already holds a run; continue it with `boltzflow resume {folder}` or choose another folder.")
            if dataset is not None:
                require_same_frames(folder, dataset, "the frames given")
            if identity(there) != identity(config):
                raise RunError(f"{folder} holds a run of another configuration; choose another folder.")
        elif there_before - ({"config.yaml.part"} if resume else {"config.yaml.part", "data.h5"}):
            raise RunError(f"{folder} is not empty and holds no run; choose another folder.")
        elif own.is_file() and (dataset is not None or (config.data.path and Path(config.data.path).resolve() != own.resolve())):
            raise RunError(f"{own} is there already, but other frames were named for this run; choose another folder.")
        if not existing.is_file():
            record(folder, config, target)
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be written: {error.strerror or error}.") from error
    return there_before


def _begun(path: Path) -> dict[str, str]:
    """When and with which command the run was begun; what an earlier process has noted stays."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        return {key: str(noted[key]) for key in ("date", "command") if key in noted}
    except FileNotFoundError:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return {"date": now, **({"command": words} if (words := command.text()) else {})}
    except (OSError, ValueError, TypeError):
        return {}


def record(folder: Path, config: RunConfig, target: Target) -> None:
    """Writes down what the run is, of which molecule, and with which versions it goes on.

    Raises:
        RunError: if the folder cannot be written.
    """
    try:
        config_io.save_config(config, folder / "config.yaml")
        files.replace_json(folder / "versions.json", {**_begun(folder / "versions.json"), **versions()})
        molecule_folder.save(target, folder)
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be written: {error.strerror or error}.") from error
