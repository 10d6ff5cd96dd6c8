"""What the processes of a run must have in common, and what the first one tells the others."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from boltzflow import cluster
from boltzflow.config import RunConfig, differences
from boltzflow.datasets import Dataset
from boltzflow.models.versions import versions
from boltzflow.runtime import in_double
from boltzflow.sampling.programs import source_hash
from boltzflow.targets import Target
from boltzflow.training.frames import Frames

# Machines may differ in these.
_LOCAL = ("platform",)


def agree(config: RunConfig, target: Target, dataset: Dataset | None) -> None:
    """Makes sure that all processes train the same, with the same programs, on the same data.

    Args:
        config: of the run.
        target: the target.
        dataset: the frames, where they were given.

    Raises:
        ConfigError: in all processes; names what differs and the hosts.
    """
    if not cluster.joined():
        return
    facts: dict[str, Any] = {f"the option {name}": value for name, value in _flat(differences(config)).items()}
    facts |= {**programs(), "the target": target.fingerprint}
    cluster.agree(facts, "start all processes with the same command, in the same environment.")
    cluster.agree(_data(config, dataset), "give all processes the same frames.")


def programs() -> dict[str, Any]:
    """What computes, by name: versions, source and precision."""
    facts = {f"the version of {name}": value for name, value in versions().items() if name not in _LOCAL}
    return {**facts, "the source of boltzflow (hash)": source_hash(), "double precision": in_double()}


def _data(config: RunConfig, dataset: Dataset | None) -> dict[str, Any]:
    """Hashes of the frames that were named; a file that another process does not see is no matter, for the first one tells them."""
    if dataset is not None:
        parts = [dataset.positions, *([] if dataset.log_weight is None else [dataset.log_weight])]
        return {"the hash of the frames": _hash(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))}
    if config.data.path is None:
        return {}
    path = Path(config.data.path)
    known = _hash(path.read_bytes()) if path.is_file() else None
    chiefs = cluster.first(lambda: known)
    return {f"the hash of {path}": chiefs if known is None else known}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options by dotted name."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        items = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(items, Mapping) and items:
            found |= _flat({str(key): inner for key, inner in items.items()}, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)
    return found


def shared(make: Callable[[], Frames], scale: Callable[[Frames], float], target: Target) -> tuple[Frames, float]:
    """The frames of a run and the scale that follows from them: made or read by the first process, told to the others.

    Args:
        make: makes or reads the frames.
        scale: gives the scale.
        target: what they are of.

    Returns:
        Frames and scale; in the other processes the frames that train alone.
    """
    made: list[Frames] = []

    def work() -> dict[str, Any]:
        made.append(make())
        train = made[0].train
        known = {"scale": scale(made[0]), "shape": list(train.positions.shape), "weighted": train.log_weight is not None}
        return {**known, "units": train.units, "dtype": str(train.positions.dtype)}

    told = cluster.first(work)
    if not cluster.joined() or not told["shape"][0]:
        return (made or [_none(told, target)])[0], told["scale"]
    if made:
        arrays: list[Any] = [made[0].train.positions, *([made[0].train.log_weight] if told["weighted"] else [])]
    else:
        arrays = [np.zeros(told["shape"], told["dtype"]), *([np.zeros(told["shape"][0])] if told["weighted"] else [])]
    # As bytes, which are the same in single and in double precision.
    raw = cluster.broadcast([np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8) for array in arrays])
    if made:
        return made[0], told["scale"]
    positions, *weights = (np.frombuffer(np.asarray(part).tobytes(), a.dtype).reshape(a.shape) for part, a in zip(raw, arrays, strict=True))
    train = Dataset(positions, target.fingerprint, told["units"], log_weight=weights[0] if weights else None)
    return dataclasses.replace(_none(told, target), all=train, train=train), told["scale"]


def _none(told: Mapping[str, Any], target: Target) -> Frames:
    """No frames at all."""
    none = Dataset(np.zeros((0, *told["shape"][1:]), told["dtype"]), target.fingerprint, told["units"])
    return Frames(none, none, none, None)
