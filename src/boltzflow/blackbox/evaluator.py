"""Energies of batches on a pool; what fails costs itself only."""

import concurrent.futures
import dataclasses
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox.pools import Pool
from boltzflow.blackbox.worker import Outcome
from boltzflow.errors import TargetError

# Pieces of a batch for each worker: more even out pieces that take longer, fewer save messages.
_PIECES_PER_WORKER = 4
# Of an executor of others, whose workers may be lost with the piece that they are at; but not so small that a calculator which takes many
# configurations at once has little of it.
_PIECES_PER_LOSABLE_WORKER, _LEAST = 16, 16


@dataclasses.dataclass(frozen=True)
class Failures:
    """How many configurations have failed.

    Example:
        >>> from boltzflow.blackbox.evaluator import Failures
        >>> Failures(evaluated=10, failed=1, first="it took too long").failed
        1

    Attributes:
        evaluated: configurations evaluated so far.
        failed: those of them that raised, crashed, took too long or had an energy or a gradient that is not finite.
        first: what the first failure was; empty if there is none.
    """

    evaluated: int = 0
    failed: int = 0
    first: str = ""


class Evaluator:
    """Evaluates batches of configurations on a pool.

    A worker process that dies takes all of its pool with it, and nobody is told which configuration did it. So the pool is made anew,
    the configurations that were under way are repeated one to a task, and those that were under way when it dies again are repeated
    with nothing beside them: the one that kills its process then is the culprit, and gets energy +inf.
    """

    def __init__(self, pool: Pool, *, label: str, timeout: float | None) -> None:
        self.failures = Failures()
        self.has_gradient: bool | None = None
        self._pool = pool
        self._label = label
        self._timeout = timeout
        # One batch at a time: a crash must not be blamed on another thread's configuration. A batch uses all workers anyway.
        self._turn = threading.Lock()

    def __call__(self, positions: Float[np.ndarray, "B N D"], gradient: bool) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, "B N D"]]:
        """Energies and gradients of a batch; +inf and zero where they failed.

        Args:
            positions: the configurations.
            gradient: whether gradients are wanted; without them they are returned as zeros, or as the function gives them anyway.
        """
        with self._turn:
            # Whether the function has gradients is learnt from its first result.
            outcome = _Batch(self._pool, positions, gradient or self.has_gradient is None, self._label, self._timeout).run()
            if self.has_gradient is None:
                self.has_gradient = outcome.has_gradient
            elif self.has_gradient and gradient and outcome.has_gradient is False:
                raise TargetError(f"the energy function of {self._label} gave a gradient at first and then none; make it give one always.")
            self._count(outcome, len(positions))
        return outcome.energies, outcome.gradients

    def _count(self, outcome: Outcome, n: int) -> None:
        seen = self.failures
        first = seen.first or next(iter(outcome.failures.values()), "")
        self.failures = Failures(seen.evaluated + n, seen.failed + len(outcome.failures), first)
        if outcome.failures and not seen.failed:
            warnings.warn(
                f"a configuration of {self._label} failed: {first}. It gets energy +inf, hence weight zero; further ones are counted "
                "without a warning, see boltzflow.targets.failures(target).",
                RuntimeWarning,
                stacklevel=2,
            )


class _Batch:
    """One batch on its way through the pool."""

    def __init__(self, pool: Pool, positions: Float[np.ndarray, "B N D"], gradient: bool, label: str, timeout: float | None) -> None:
        self._pool, self._positions, self._gradient, self._label, self._timeout = pool, positions, gradient, label, timeout
        self._outcome = Outcome(np.full(len(positions), np.inf), np.zeros(positions.shape), None, {})
        piece = max(1, -(-len(positions) // (_PIECES_PER_WORKER * pool.workers)))
        if not pool.renewable:
            piece = max(min(piece, _LEAST), -(-len(positions) // (_PIECES_PER_LOSABLE_WORKER * pool.workers)))
        places = list(range(len(positions)))
        self._waiting = deque(places[begin : begin + piece] for begin in range(0, len(places), piece))
        self._suspects: deque[int] = deque()
        self._again: set[int] = set()
        self._flying: dict[concurrent.futures.Future[Outcome], Sequence[int]] = {}

    def run(self) -> Outcome:
        while self._waiting or self._suspects:
            lost = self._together()
            if lost:
                self._pool.renew()
                for places in lost:
                    if len(places) > 1:
                        self._waiting.extend([place] for place in places)
                    else:
                        self._suspects.extend(places)
            while self._suspects and not self._waiting:
                self._alone(self._suspects.popleft())
        return self._outcome

    def _together(self) -> list[Sequence[int]]:
        """Runs what waits, side by side; returns what was under way when the pool broke."""
        # No more tasks than workers where a crash can happen, so that few configurations come under suspicion.
        most = self._pool.workers if self._pool.renewable else len(self._positions)
        lost: list[Sequence[int]] = []
        while self._flying or (self._waiting and not lost):
            while self._waiting and not lost and len(self._flying) < most:
                places = self._waiting.popleft()
                if not self._launch(places):
                    lost.append(places)
            done, _ = concurrent.futures.wait(self._flying, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                places = self._flying.pop(future)
                if not self._land(future, places):
                    lost.append(places)
        return lost

    def _alone(self, place: int) -> None:
        # A piece without configurations first, so that the time does not count the start of the process.
        began = time.monotonic()
        for places in ([], [place]):
            began = time.monotonic()
            if not (self._launch(places) and self._land(*self._flying.popitem())):
                break
        else:
            return
        self._pool.renew()
        late = self._timeout is not None and time.monotonic() - began >= self._timeout
        self._outcome.failures[place] = f"it took longer than {self._timeout} s" if late else "its worker process died, twice"

    def _launch(self, places: Sequence[int]) -> bool:
        """Starts a piece; whether the pool could take it."""
        try:
            self._flying[self._pool.submit(self._positions[places], self._gradient)] = places
        except (concurrent.futures.BrokenExecutor, RuntimeError) as error:
            if not self._pool.renewable or not isinstance(error, concurrent.futures.BrokenExecutor):
                raise self._unusable(error) from error
            return False
        return True

    def _land(self, future: "concurrent.futures.Future[Outcome]", places: Sequence[int]) -> bool:
        """Keeps the results of a piece; whether the pool survived it."""
        try:
            piece = future.result()
        except concurrent.futures.BrokenExecutor as error:
            if not self._pool.renewable:
                raise self._unusable(error) from error
            return False
        except (Exception, concurrent.futures.CancelledError) as error:
            if (reason := self._pool.gone()) is not None:
                raise self._unusable(reason) from error
            # An executor's own trouble with this task, such as Dask's KilledWorker: a worker may have gone for reasons of its own.
            if places[0] not in self._again and (len(places) > 1 or isinstance(error, concurrent.futures.CancelledError)):
                self._again.add(places[0])
                self._waiting.append(list(places))
            elif isinstance(error, concurrent.futures.CancelledError):
                # Never the fault of a configuration.
                raise self._unusable("it has cancelled the work") from error
            elif len(places) > 1:
                self._waiting.extend([place] for place in places)
            else:
                self._outcome.failures[places[0]] = f"{type(error).__name__}: {error}"
            return True
        self._outcome.energies[places] = piece.energies
        self._outcome.gradients[places] = piece.gradients
        self._outcome.failures.update({places[place]: text for place, text in piece.failures.items()})
        if piece.has_gradient is not None:
            self._outcome = self._outcome._replace(has_gradient=piece.has_gradient and self._outcome.has_gradient is not False)
        return True

    def _unusable(self, error: BaseException | str) -> TargetError:
        return TargetError(
            f"the executor of {self._label} takes no more work ({error}); pass one that stays open, or leave `executor` out so that "
            "boltzflow makes worker processes of its own and replaces those that die."
        )
