"""Where the pieces of a batch run: worker processes of our own, or an executor of the user."""

import atexit
import concurrent.futures
import multiprocessing
import pickle
import weakref
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from boltzflow.blackbox import farm, worker
from boltzflow.errors import TargetError
from boltzflow.runtime import available_cores


@runtime_checkable
class Pool(Protocol):
    """Takes pieces of a batch."""

    workers: int

    @property
    def renewable(self) -> bool:
        """Whether the pool can be made anew after one of its processes died."""
        ...

    def submit(self, positions: Float[np.ndarray, "B N D"], gradient: bool) -> "concurrent.futures.Future[worker.Outcome]":
        """Starts work on a piece."""
        ...

    def renew(self) -> None:
        """Drops the broken pool; the next piece starts a new one."""
        ...

    def gone(self) -> str | None:
        """Why there will be no more work, in a sentence; None where there will."""
        ...


_open: "weakref.WeakSet[OwnProcesses]" = weakref.WeakSet()


class OwnProcesses:
    """Worker processes, started when they are first needed and ended with the interpreter at the latest."""

    renewable = True

    def __init__(self, function: worker.Function, workers: int | None, timeout: float | None, label: str) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A worker process that is being started runs the user's script once more, which lacks `if __name__ == "__main__":`. The parent
            # says so in a sentence; tracebacks of all its workers would only hide it.
            raise SystemExit(1)
        if multiprocessing.current_process().daemon:
            raise TargetError(
                f"the energy function of {label} runs in worker processes, but this process is itself a daemonic worker of a pool, which "
                "may have none; pass executor=concurrent.futures.ThreadPoolExecutor() to compute in threads of this process, or run "
                "outside of the pool."
            )
        try:
            self._pickled = pickle.dumps(function)
        except Exception as error:
            raise TargetError(
                f"the energy function of {label} cannot be sent to worker processes ({error}); define it at the top level of a module, "
                "or pass executor=concurrent.futures.ThreadPoolExecutor() to run it in threads of this process."
            ) from error
        self.workers = workers or available_cores()
        self._timeout = timeout
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        _open.add(self)

    def submit(self, positions: Float[np.ndarray, "B N D"], gradient: bool) -> "concurrent.futures.Future[worker.Outcome]":
        """Starts work on a piece."""
        if self._pool is None:
            # Spawned, for a fork of a process with JAX's threads can hang.
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=worker.initialise,
                initargs=(self._pickled, self._timeout),
            )
        return self._pool.submit(worker.evaluate_here, positions, gradient)

    def renew(self) -> None:
        """Drops the broken pool; the next piece starts a new one."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None

    def gone(self) -> str | None:
        """None: there are always new processes."""
        return None


@atexit.register
def _close() -> None:
    """Drops all pools while the modules are still there that they need to say goodbye."""
    for pool in list(_open):
        pool.renew()


class GivenExecutor:
    """An executor of the user: threads, MPI, Dask's `client.get_executor()`."""

    renewable = False

    def __init__(self, function: worker.Function, executor: concurrent.futures.Executor, workers: int | None) -> None:
        self._executor = executor
        # Sent to workers once where the executor can.
        self._function = farm.shared(executor, function)
        self.workers = workers or farm.size(executor) or available_cores()

    def submit(self, positions: Float[np.ndarray, "B N D"], gradient: bool) -> "concurrent.futures.Future[worker.Outcome]":
        """Starts work on a piece."""
        return self._executor.submit(worker.evaluate, self._function, positions, gradient)

    def gone(self) -> str | None:
        """Why there will be no more work, in a sentence."""
        return farm.gone(self._executor)

    def renew(self) -> None:
        """Does nothing: what broke belongs to the user."""
