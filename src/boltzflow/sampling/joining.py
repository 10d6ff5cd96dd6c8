"""Joins shards of samples; see `boltzflow.shards`."""

from collections.abc import Sequence
from pathlib import Path

from boltzflow import files, shards
from boltzflow.errors import DataError, RunError
from boltzflow.sampling.sample_file import create, describe, fill, hdf5, inspect, part_chain, read, require_space
from boltzflow.sampling.samples import difference, summed
from boltzflow.sampling.writer import locked

_ALIKE = ("fingerprint", "seed")


def join(paths: Sequence[str | Path], out: str | Path) -> int:
    """Joins the shards of a drawing into one file, in the order of their samples; one shard at a time is in memory.

    Args:
        paths: files of the shards, in any order.
        out: samples file to write.

    Returns:
        How many samples it holds.

    Raises:
        DataError: if a file holds no shard or is not finished, shards are of different drawings or models, or one is there twice or not at
            all; names it.
        RunError: if `out` is there already or cannot be written.
    """
    out = files.named(out)
    if out.exists():
        raise RunError(f"{out} exists already; choose another file, or delete it first.")
    parts = [_part(files.named(path)) for path in paths]
    for part in parts[1:]:
        _require_alike(parts[0], part)
    parts = shards.complete(parts, "sample MODEL")
    try:
        with locked(out):
            _write(parts, out)
    except (OSError, RuntimeError) as error:
        raise RunError(f"cannot write {out}: {files.reason(error)}.") from error
    return parts[0].total


def _part(path: Path) -> shards.Part:
    """A file of a shard, looked at.

    Raises:
        DataError: if it is not there, holds no shard, or not all of it.
    """
    if not path.is_file() and part_chain(path):
        raise DataError(f"the shard {path} is not finished; continue it with --resume.")
    if not path.is_file():
        raise DataError(f"there are no samples at {path}; draw them with `boltzflow sample MODEL --shard k/K -o {path}`.")
    n, _, meta = inspect(path)
    return shards.part(path, n, meta)


def _require_alike(first: shards.Part, part: shards.Part) -> None:
    """Refuses shards of different drawings.

    Raises:
        DataError: names the files and what they differ in.
    """
    for key in _ALIKE:
        one, other = part.meta.get(key), first.meta.get(key)
        if one != other:
            raise DataError(f"{part.path} and {first.path} are no shards of one drawing: they differ in {key} ({one} and {other}).")
    if (apart := difference(part.meta, first.meta)) is not None:
        raise DataError(f"{part.path} and {first.path} are of different models: they differ in {apart}.")


def _write(parts: Sequence[shards.Part], out: Path) -> None:
    meta = {key: value for key, value in parts[0].meta.items() if key != shards.META} | summed([part.meta for part in parts])
    with files.writing(out, temporary=out.with_name(out.name + ".tmp")) as temporary:
        require_space(temporary, sum(part.path.stat().st_size for part in parts))
        with hdf5(temporary, "w") as file:
            start = 0
            for part in parts:
                begin, end = shards.bounds(part.total, part.shard)
                samples = read(part.path).take(slice(0, end - begin))
                if start == 0:
                    create(file, part.total, samples)
                fill(file, start, samples)
                start += samples.n
            describe(file, parts[0].total, meta)
