"""Chunks of samples that workers elsewhere draw."""

import concurrent.futures
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from boltzflow.blackbox import farm
from boltzflow.flows.status import Status
from boltzflow.sampling.samples import Samples


class Farm(NamedTuple):
    """Workers that draw chunks.

    Attributes:
        executor: that runs them.
        work: draws the samples between two of them, given the chunk; it is sent to the workers.
    """

    executor: concurrent.futures.Executor
    work: Callable[[int, int, int], Samples]


def farmed(
    remote: Farm, start: int, stop: int, chunk: int, meta: Mapping[str, Any], shape: tuple[int, int]
) -> Iterator[tuple[int, Samples]]:
    """Chunks of samples by workers, as (end, samples) in order; a chunk that fails on each is samples without weight.

    Args:
        remote: the workers.
        start: first sample.
        stop: the one behind the last.
        chunk: samples per compiled call; chunks begin at multiples of it.
        meta: of the samples.
        shape: (N, D).
    """
    edges = [start, *range((start // chunk + 1) * chunk, stop, chunk), stop]
    pieces = [(begin, end, chunk) for begin, end in itertools.pairwise(edges)]

    def lost(piece: tuple[Any, ...], error: BaseException) -> Samples:
        count = piece[1] - piece[0]
        warnings.warn(
            f"the samples {piece[0]} to {piece[1] - 1} have no weight, for they could not be drawn in {farm.TRIES} tries "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}).",
            stacklevel=2,
        )
        nothing = np.full(count, np.nan)
        status = np.full(count, Status.LOST)
        return Samples(np.full((count, *shape), np.nan, np.float32), nothing, nothing, status, np.zeros(count, int), nothing, dict(meta))

    found = farm.in_order(remote.executor, remote.work, pieces, lost)
    for (_, end, _), part in zip(pieces, found, strict=True):
        yield end, dataclasses.replace(part, meta={**part.meta, **meta})
