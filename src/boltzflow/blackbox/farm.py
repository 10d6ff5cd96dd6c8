"""Farms: executors of others, such as Dask's, that compute on many machines; found by a word, looked over, and asked again.

What is needed of an executor is `submit(function, *arguments)`: any `concurrent.futures.Executor` will do, mpi4py's `MPIPoolExecutor` among
them, and what gives jobs with a method `result()`, as submitit's `AutoExecutor` does.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import platform
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

from boltzflow import extras
from boltzflow.errors import ConfigError, RunError


@runtime_checkable
class Submits(Protocol):
    """What takes work: an executor, or what gives jobs with a method `result()`."""

    def submit(self, *arguments: Any, **named: Any) -> Any:
        """Starts `function(*arguments)`."""
        ...


T = TypeVar("T")
R = TypeVar("R")

TRIES = 3
"""How often a piece of work is begun before it counts as failed; Dask itself begins it again elsewhere where a worker dies."""

CONNECT_SECONDS = 20
_OWN = "of this job"
# What must be the same in a worker, and what the versions are called there.
_PACKAGES = ("boltzflow", "jax", "numpy")
# Sent by value: a worker may lack this package.
_PROBE = """
def probe(names):
    import importlib.metadata, platform, socket
    found = {"python": platform.python_version().rpartition(".")[0]}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return socket.gethostname(), found
"""


def of(executor: Any) -> concurrent.futures.Executor:
    """The executor that a word names, or one made of what has a method `submit`.

    Args:
        executor: "dask://HOST:PORT", "dask-slurm" or "dask-slurm:JOBS" (`dask_jobqueue`, as its jobqueue.yaml says), or an object.

    Raises:
        ConfigError: if it is none of these, or a package is missing.
        RunError: if the scheduler does not answer, or a worker has not the same versions.
    """
    if isinstance(executor, concurrent.futures.Executor):
        return executor
    if not isinstance(executor, str):
        if not callable(getattr(executor, "submit", None)):
            raise ConfigError(f"{executor!r} is no executor: it has no method submit(function, ...).")
        return Adapted(executor)
    if found := re.fullmatch(r"dask://(.+:\d+)", executor):
        return _dask(_connected(f"tcp://{found[1]}"), found[1])
    if found := re.fullmatch(r"dask-slurm(?::(\d+))?", executor):
        return _dask(_slurm(int(found[1] or 1)), _OWN)
    raise ConfigError(f"an executor is named dask://HOST:PORT, dask-slurm or dask-slurm:JOBS, got {executor!r}.")


class Adapted(concurrent.futures.Executor):
    """An executor of what gives jobs with a method `result()`: a thread waits for each."""

    def __init__(self, inner: Any, waiting: int = 64) -> None:
        """Takes what has the method `submit`.

        Args:
            inner: gives the jobs.
            waiting: for how many is waited at a time.
        """
        self._inner = inner
        self._threads = concurrent.futures.ThreadPoolExecutor(waiting, thread_name_prefix="jobs")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[T]":
        """Starts a job."""
        return self._threads.submit(lambda: self._inner.submit(fn, *args, **kwargs).result())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for no more jobs."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


def _distributed() -> Any:
    with extras.of("cluster", "an executor of Dask"):
        import distributed
    return distributed


def _connected(address: str) -> Any:
    """A client of a scheduler that is there already."""
    distributed = _distributed()
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise RunError(
            f"the Dask scheduler at {address.removeprefix('tcp://')} does not answer, asked from {socket.gethostname()}; see whether it "
            "was started there and its port is open."
        ) from error


def _slurm(jobs: int) -> Any:
    """A client of workers in so many jobs of SLURM, which end with this process."""
    distributed = _distributed()
    try:
        from dask_jobqueue import SLURMCluster  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("dask-slurm needs the package dask-jobqueue; install it with `pip install dask-jobqueue`.") from error
    try:
        cluster = SLURMCluster()
        cluster.scale(jobs=jobs)
        return distributed.Client(cluster, set_as_default=False)
    except Exception as error:
        raise RunError(f"Dask cannot start workers by SLURM ({_first_line(error)}); see jobqueue.slurm in Dask's jobqueue.yaml.") from error


def _dask(client: Any, where: str) -> concurrent.futures.Executor:
    """The executor of a client whose workers were looked over."""
    if not client.nthreads():
        _await_workers(client, where)
    require_same_versions(client)
    executor = client.get_executor(pure=False)
    executor.where = where
    return executor


def _await_workers(client: Any, where: str) -> None:
    """Waits for the first worker: of a scheduler that is there for a while, of a queue as long as it takes.

    Raises:
        RunError: if none comes.
    """
    try:
        client.wait_for_workers(1, timeout=None if where == _OWN else 3 * CONNECT_SECONDS)
    except TimeoutError as error:
        raise RunError(f"the Dask scheduler at {where} has no workers; start some with `dask worker tcp://{where}`.") from error


def require_same_versions(client: Any) -> None:
    """Looks over the workers of a Dask client: results of other versions would not be those of a local run.

    Args:
        client: of Dask.

    Raises:
        RunError: names the host, and what it has.
    """
    space: dict[str, Any] = {"__name__": "sent_by_value"}
    exec(_PROBE, space)
    own = {"python": platform.python_version().rpartition(".")[0]} | {name: importlib.metadata.version(name) for name in _PACKAGES}
    for answer in client.run(space["probe"], _PACKAGES, on_error="return").values():
        if isinstance(answer, BaseException):
            raise RunError(f"a Dask worker does not answer ({_first_line(answer)}); start it again.")
        host, found = answer
        for name, version in own.items():
            if found[name] is None:
                raise RunError(f"the Dask worker on {host} lacks the package {name}; give workers the environment of this process.")
            if found[name] != version:
                raise RunError(f"the Dask worker on {host} has {name} {found[name]}, and this process {version}; give them the same.")


def size(executor: concurrent.futures.Executor) -> int | None:
    """How many tasks an executor runs side by side, where it tells."""
    client = getattr(executor, "_client", None)
    if client is not None:
        with contextlib.suppress(Exception):
            return sum(client.nthreads().values()) or None
    for name in ("_max_workers", "num_workers"):
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return None


def gone(executor: concurrent.futures.Executor) -> str | None:
    """Why an executor will do no more work, in a sentence; None where it will."""
    client = getattr(executor, "_client", None)
    if client is not None and getattr(client, "status", "running") != "running":
        where = getattr(executor, "where", "")
        return f"the Dask scheduler{f' {where}' if where.startswith('of') else f' at {where}' if where else ''} has gone"
    return None


def shared(executor: concurrent.futures.Executor, value: Any) -> Any:
    """Something that many tasks need, in the form in which it is given to them: of Dask sent to each worker once.

    Args:
        executor: that runs the tasks.
        value: what they need.
    """
    client = getattr(executor, "_client", None)
    # A task and not scattered data, which would be gone with the last worker that holds them.
    return value if client is None else client.submit(_same, value, pure=False)


def _same(value: Any) -> Any:
    return value


def in_order(
    executor: concurrent.futures.Executor,
    work: Callable[..., R],
    pieces: Iterable[tuple[Any, ...]],
    failed: Callable[[tuple[Any, ...], BaseException], R],
    *,
    ahead: int | None = None,
) -> Iterator[R]:
    """Results of pieces of work in their order; one whose worker is lost is begun again, and one that fails each time costs itself.

    Args:
        executor: that runs them.
        work: gives the result of a piece; the executor must be able to send it.
        pieces: arguments of each; taken as they are needed.
        failed: gives what stands in for the result of a piece that failed each time.
        ahead: pieces under way; None: two for each task that runs at a time.

    Raises:
        RunError: if the executor takes no more work; says why.
    """
    most = ahead or 2 * (size(executor) or 8)
    waiting, pending = iter(pieces), deque[tuple[tuple[Any, ...], concurrent.futures.Future[R]]]()
    try:
        while True:
            while len(pending) < most and (piece := next(waiting, None)) is not None:
                pending.append((piece, _begun(executor, work, piece)))
            if not pending:
                return
            piece, future = pending.popleft()
            yield _result(executor, work, piece, future, failed)
    finally:
        for _, future in pending:
            future.cancel()


def _begun(executor: concurrent.futures.Executor, work: Callable[..., R], piece: tuple[Any, ...]) -> "concurrent.futures.Future[R]":
    try:
        return executor.submit(work, *piece)
    except Exception as error:
        raise RunError(
            f"{gone(executor) or f'the executor takes no more work ({_first_line(error)})'}; what is written is kept."
        ) from error


def _result(
    executor: concurrent.futures.Executor,
    work: Callable[..., R],
    piece: tuple[Any, ...],
    future: "concurrent.futures.Future[R]",
    failed: Callable[[tuple[Any, ...], BaseException], R],
) -> R:
    for tried in range(1, TRIES + 1):
        try:
            return future.result()
        except RunError:
            # Not the piece, but the worker's environment.
            raise
        except (Exception, concurrent.futures.CancelledError) as error:
            if (reason := gone(executor)) is not None or isinstance(error, concurrent.futures.BrokenExecutor):
                raise RunError(
                    f"{reason or f'the executor takes no more work ({_first_line(error)})'}; what is written is kept, go on with resume "
                    "(--resume) when there is another."
                ) from error
            if tried == TRIES:
                return failed(piece, error)
            future = _begun(executor, work, piece)
    raise AssertionError("the last try returns")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
