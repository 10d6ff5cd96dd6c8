"""Joins shards of reference data, each of chains and a seed of its own; see `boltzflow.shards`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boltzflow import counting, files, shards
from boltzflow.analysis.observables import radius_of_gyration
from boltzflow.datasets import Dataset
from boltzflow.datasets.stored import read
from boltzflow.errors import DataError
from boltzflow.reference.diagnostics import split_r_hat
from boltzflow.reference.result import R_HAT_LIMIT

# What adds up over shards; an effective sample size is one of independent chains.
_SUMMED = ("seconds", *counting.META)
_ALIKE = ("sampler", "temperatures", f"{shards.META}_seed")


def join(paths: Sequence[str | Path], out: str | Path) -> Dataset:
    """Joins the shards of reference data into one file, shard by shard.

    R-hat of the energy and of the radius of gyration is computed anew with a shard as a chain, which tells whether shards agree; the
    virial check is made when the file is read.

    Args:
        paths: files of the shards, in any order.
        out: data file to write.

    Returns:
        The frames.

    Raises:
        DataError: if a file holds no shard, shards are of different targets, samplers or seeds, one is there twice or not at all, or `out`
            is there already or cannot be written.
    """
    parts, data = [], {}
    for name in paths:
        path = files.named(name)
        if not path.is_file():
            raise DataError(f"there is no data file {path}; make it with `boltzflow reference TARGET --shard k/K -o {path}`.")
        data[path] = read(path)
        parts.append(shards.part(path, data[path].n, _with_shard(data[path].provenance)))
    for part in parts[1:]:
        _require_alike(parts[0], part, data)
    joined = _joined([data[part.path] for part in shards.complete(parts, "reference TARGET")], parts[0])
    joined.save(out)
    return joined


def _with_shard(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance, with the shard under one name where it says of one."""
    stated = {name: provenance.get(f"{shards.META}_{name}") for name in ("number", "of", "n")}
    return {**provenance, **({} if None in stated.values() else {shards.META: stated})}


def _require_alike(first: shards.Part, part: shards.Part, data: Mapping[Path, Dataset]) -> None:
    """Refuses shards of different data.

    Raises:
        DataError: names the files and what they differ in.
    """
    facts = [{"target": data[one.path].fingerprint, **{key: one.meta.get(key) for key in _ALIKE}} for one in (part, first)]
    for key, value in facts[0].items():
        if value != facts[1][key]:
            name = key.removeprefix(f"{shards.META}_")
            raise DataError(
                f"{part.path} and {first.path} are no shards of one data set: they differ in {name} ({value} and {facts[1][key]})."
            )


def _joined(parts: Sequence[Dataset], first: shards.Part) -> Dataset:
    """The frames of all shards one after the other, and what can be said of them together."""
    known = [part.provenance for part in parts]
    left_out = ("virial_", "r_hat_", "ess_", f"{shards.META}_", "step_sizes", "mean_energy", "chains")
    merged = {key: value for key, value in known[0].items() if not key.startswith(left_out)}
    effective = tuple(key for key in known[0] if key.startswith("ess_"))
    for key in (*_SUMMED, *effective):
        parts_of_it = [float(own[key]) for own in known if key in own]
        if len(parts_of_it) == len(known):
            merged[key] = sum(parts_of_it) if key in (*effective, "seconds") else int(sum(parts_of_it))
    # Chains of all shards are as long as one another where the frames of each shard fall evenly on its own.
    if len({part.n for part in parts}) == 1 and all(part.n % int(own["chains"]) == 0 for part, own in zip(parts, known, strict=True)):
        merged["chains"] = sum(int(own["chains"]) for own in known)
    else:
        merged["chains"] = len(parts)
    r_hat = _r_hat(parts)
    merged |= {f"r_hat_{name}": value for name, value in r_hat.items()}
    merged["converged"] = all(bool(own.get("converged")) for own in known) and all(value <= R_HAT_LIMIT for value in r_hat.values())
    merged |= {"n": sum(part.n for part in parts), "seed": first.meta[f"{shards.META}_seed"], "joined_shards": len(parts)}
    energies = [part.energies for part in parts if part.energies is not None]
    if len(energies) == len(parts):
        every = np.concatenate(energies)
        merged["mean_energy"] = float(every.mean())
        merged["mean_energy_error"] = float(every.std() / math.sqrt(max(1.0, float(merged.get("ess_energy", len(every))))))
    return Dataset(
        np.concatenate([part.positions for part in parts]),
        parts[0].fingerprint,
        parts[0].units,
        merged,
        structure=parts[0].structure,
        molecule=parts[0].molecule,
        energies=np.concatenate(energies) if len(energies) == len(parts) else None,
    )


def _r_hat(parts: Sequence[Dataset]) -> dict[str, float]:
    """R-hat of observables, each shard taken for a chain."""
    n = min(part.n for part in parts)
    series = {"radius_of_gyration": [radius_of_gyration(np.asarray(part.positions[:n], np.float64)) for part in parts]}
    if all(part.energies is not None for part in parts):
        series["energy"] = [np.asarray(part.energies)[:n] for part in parts]
    return {name: split_r_hat(np.stack(values)) for name, values in series.items()}
