"""Draws of log densities of many configurations, by this process or by workers elsewhere: chunk by chunk, with the same bits."""

import concurrent.futures
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox import farm
from boltzflow.flows.base import AbstractFlow
from boltzflow.progress import Wanted, chosen
from boltzflow.sampling.generate import log_importance_ratios


@runtime_checkable
class Ratios(Protocol):
    """What `generate.log_importance_ratios` is of a flow: draws of the log densities of configurations."""

    def __call__(
        self,
        positions: Float[np.ndarray, "n N D"],
        *,
        seed: int,
        first: int = 0,
        chunk: int | None = None,
        progress: Wanted = False,
    ) -> Float[np.ndarray, "n K"]:
        """(n, K) draws; those of configuration i depend on the seed and on `first` + i alone."""
        ...


class Piece(NamedTuple):
    """A chunk of configurations, as it is sent to a worker.

    Attributes:
        positions: (m, N, D) in data units, m no more than `chunk`.
        seed: of the draws.
        first: number of the first of them.
        chunk: configurations of the compiled call, to which they are filled up.
    """

    positions: Float[np.ndarray, "m N D"]
    seed: int
    first: int
    chunk: int

    def computed(self, flow: AbstractFlow) -> Float[np.ndarray, "m K"]:
        """The draws, as this process would make them."""
        kept = len(self.positions)
        filled = np.concatenate([self.positions, np.repeat(self.positions[-1:], self.chunk - kept, axis=0)])
        return log_importance_ratios(flow, filled, seed=self.seed, first=self.first, chunk=self.chunk, devices=1)[:kept]


class RatioFarm(NamedTuple):
    """Workers that compute draws of log densities; called as `Ratios`.

    Attributes:
        executor: that runs them.
        work: gives the draws of a piece; it is sent to the workers.
        chunk_size: configurations of a compiled call, of the flow.
        draws: of each configuration, K.
    """

    executor: concurrent.futures.Executor
    work: Callable[[Piece], Float[np.ndarray, "m K"]]
    chunk_size: int
    draws: int

    def pieces(self, positions: Float[np.ndarray, "n N D"], *, seed: int, first: int = 0, chunk: int | None = None) -> list[Piece]:
        """The chunks in which this process would compute them."""
        n = len(positions)
        chunk = min(chunk or self.chunk_size, n)
        return [Piece(positions[begin : begin + chunk], seed, first + begin, chunk) for begin in range(0, n, chunk or 1)]

    def each(self, pieces: Iterable[Piece]) -> Iterator[Float[np.ndarray, "m K"]]:
        """Draws of pieces in their order; NaN of one that fails on each worker, with a warning.

        Args:
            pieces: taken as they are needed.

        Raises:
            RunError: if the workers are gone, or not fit to compute them.
        """

        def lost(asked: tuple[Any, ...], error: BaseException) -> Float[np.ndarray, "m K"]:
            piece: Piece = asked[0]
            last = piece.first + len(piece.positions) - 1
            warnings.warn(
                f"the configurations {piece.first} to {last} have no weight, for their densities could not be computed in {farm.TRIES} "
                f"tries ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}).",
                stacklevel=2,
            )
            return np.full((len(piece.positions), self.draws), np.nan)

        return farm.in_order(self.executor, self.work, ((piece,) for piece in pieces), lost)

    def __call__(
        self, positions: Float[np.ndarray, "n N D"], *, seed: int, first: int = 0, chunk: int | None = None, progress: Wanted = False
    ) -> Float[np.ndarray, "n K"]:
        """As `Ratios`; NaN where a density could not be computed."""
        bar = chosen(progress)
        found, done = [np.empty((0, self.draws))], 0
        bar.start(len(positions), "log density of data")
        try:
            for part in self.each(self.pieces(positions, seed=seed, first=first, chunk=chunk)):
                found.append(part)
                bar.update(done := done + len(part))
        finally:
            bar.stop()
        return np.concatenate(found)

    def streamed(self, requests: Iterable[tuple[Float[np.ndarray, "n N D"], int, int]]) -> Ratios:
        """Answers requests that are known beforehand, (positions, seed, first) one after the other, so that workers are ahead of them.

        Args:
            requests: taken as they are needed; those with which what is returned is then called.
        """
        drawn = self.each(itertools.chain.from_iterable(self.pieces(x, seed=seed, first=first) for x, seed, first in requests))

        def next_one(
            positions: Float[np.ndarray, "n N D"], *, seed: int, first: int = 0, chunk: int | None = None, progress: Wanted = False
        ) -> Float[np.ndarray, "n K"]:
            count = len(self.pieces(positions, seed=seed, first=first))
            return np.concatenate([np.empty((0, self.draws)), *itertools.islice(drawn, count)])

        return next_one
