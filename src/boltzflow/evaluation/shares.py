"""Shares of an evaluation: a part of its samples and of its frames' densities, made by itself; the figures come of all of them.

A folder holds them, two files of each: `samples.shardKofN.h5`, as of `boltzflow sample --shard`, and `frames.shardKofN.npz`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import files, seeds, shards
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError, RunError
from boltzflow.evaluation.figures import chosen_frames
from boltzflow.flows.identity import identity
from boltzflow.models.model import Model
from boltzflow.progress import Wanted
from boltzflow.sampling import joining
from boltzflow.sampling.enantiomers import right_enantiomer
from boltzflow.sampling.generate import generate, log_importance_ratios
from boltzflow.sampling.ratios import Piece, Ratios

_ALIKE = ("identity", "frames")
_JOINED = "samples.h5"


def make(model: Model, folder: Path, n: int, shard: shards.Shard, *, seed: int, frames: Dataset, progress: Wanted = None) -> None:
    """Makes a share, or what is missing of it.

    Args:
        model: the trained flow with its target.
        folder: of all shares.
        n: samples of all of them together, and the most frames to use.
        shard: (k, K), counted from 1.
        seed: as of `evaluation.evaluate`.
        frames: held-out frames of the target.
        progress: told how much is done; None: a bar where somebody looks on (`progress.chosen`).

    Raises:
        ConfigError: if there is no such shard.
        RunError: if the folder cannot be written, or holds a share of another evaluation.
    """
    seed = seeds.checked(seed)
    shards.bounds(n, shard)
    options: dict[str, Any] = {"seed": seed, "model": model.name, "shard": shard, "resume": True, "progress": progress}
    generate(model.flow, model.target, n, out=_file(folder, "samples", shard, "h5"), **options)
    positions = right_enantiomer(chosen_frames(frames, n, seed=seed)[0].positions, model.flow, model.target)[0]
    path = _file(folder, "frames", shard, "npz")
    facts = {"identity": identity(model.flow)["identity"], "frames": _hash(positions, seed), "n": n, "shard": list(shard)}
    if path.is_file():
        if _facts(path) != facts:
            raise RunError(f"{path} is a share of another evaluation; choose another folder, or delete it.")
        return
    draws = _part(model, positions, shard, seed=seed, progress=progress)
    try:
        with files.writing(path) as part, part.open("wb") as file:
            np.savez(file, draws=draws, facts=np.array(json.dumps(facts)))
    except OSError as error:
        raise RunError(f"cannot write {path}: {files.reason(error)}.") from error


def _part(
    model: Model, positions: Float[np.ndarray, "n N D"], shard: shards.Shard, *, seed: int, progress: Wanted
) -> Float[np.ndarray, "m K"]:
    """Draws of the densities of a part of the frames, in whole chunks, as one process would compute them for all."""
    n = len(positions)
    chunk = min(model.flow.chunk_size, n)
    chunks, (number, of) = -(-n // chunk), shard
    begin, end = (number - 1) * chunks // of * chunk, min(number * chunks // of * chunk, n)
    part = positions[begin:end]
    if len(part) >= chunk:
        return log_importance_ratios(model.flow, part, seed=seed, first=begin, chunk=chunk, progress=progress)
    return Piece(part, seed, begin, chunk).computed(model.flow) if len(part) else np.empty((0, model.flow.noisy_draws or 1))


def joined(model: Model, folder: str | os.PathLike[str]) -> tuple[Path, int, Ratios]:
    """All shares of an evaluation.

    Args:
        model: whose they are.
        folder: that holds them.

    Returns:
        The file of the samples, which is made of the shares if it is not there yet; the number n that was asked for; and the densities of
        the frames, for `evaluation.evaluate`.

    Raises:
        DataError: if a share is missing or not finished, or they are of different models or frames; names it.
        RunError: if the samples cannot be written.
    """
    folder = Path(folder)
    parts = [_frames_part(path) for path in sorted(folder.glob("frames.shard*of*.npz"))]
    if not parts:
        raise DataError(f"{folder} holds no shares; make them with `boltzflow evaluate MODEL -n N --shard k/K -o {folder}`.")
    for part in parts:
        for name in _ALIKE:
            if part.meta[name] != parts[0].meta[name]:
                what = "models" if name == "identity" else "frames or seeds"
                raise DataError(f"{part.path} and {parts[0].path} are of different {what}; make all shares by one command.")
    parts = shards.complete(parts, "evaluate MODEL")
    known = parts[0].meta
    if known["identity"] != identity(model.flow)["identity"]:
        raise DataError(f"the shares in {folder} are of another model than {model.name}, or of other weights; name theirs.")
    samples = folder / _JOINED
    if not samples.exists():
        joining.join([_file(folder, "samples", part.shard, "h5") for part in parts], samples)
    draws = np.concatenate([_draws(part.path) for part in parts])

    def ratios(
        positions: Float[np.ndarray, "n N D"], *, seed: int, first: int = 0, chunk: int | None = None, progress: Wanted = False
    ) -> Float[np.ndarray, "n K"]:
        if _hash(positions, seed) != known["frames"]:
            raise DataError(f"the shares in {folder} are of other frames, or of another seed; give the same --data and --seed.")
        return draws

    return samples, parts[0].total, ratios


def _file(folder: Path, what: str, shard: shards.Shard, ending: str) -> Path:
    return folder / f"{what}.shard{shard[0]}of{shard[1]}.{ending}"


def _frames_part(path: Path) -> shards.Part:
    facts = _facts(path)
    number, of = facts["shard"]
    return shards.Part(path, (number, of), facts["n"], facts["n"], facts)


def _facts(path: Path) -> Mapping[str, Any]:
    """What the share of the frames says of itself.

    Raises:
        DataError: if it is damaged.
    """
    return json.loads(str(_read(path, "facts")))


def _draws(path: Path) -> Float[np.ndarray, "m K"]:
    return _read(path, "draws")


def _read(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except (OSError, ValueError, KeyError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise DataError(f"{path} is damaged ({reason}); delete it, and make that share again.") from error


def _hash(positions: Float[np.ndarray, "n N D"], seed: int) -> str:
    return hashlib.sha256(np.ascontiguousarray(positions).tobytes() + f"{positions.shape} {seed}".encode()).hexdigest()[:16]
