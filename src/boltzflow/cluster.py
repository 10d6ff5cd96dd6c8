"""Several processes of one job, on one host or many, by JAX's own runtime (`jax.distributed`): who they are, and that they agree.

JAX shares arrays among the processes; what is here is what it lacks: that they agree about configuration, versions and data, that one of
them does what only one may do, and that each ends with a sentence when another has gone. Messages go through the key-value store of JAX's
coordination service, which has no public face but is what JAX's own checkpoints use.

Nothing here imports JAX before it is called: a process that is alone pays nothing.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from boltzflow import errors
from boltzflow.errors import BoltzflowError, ConfigError, PeerLost, RunError

T = TypeVar("T")

CONNECT_SECONDS = 300
"""How long processes wait for each other at the start."""

# A process that does not show a sign of life for so long is given up.
_HEARTBEAT_SECONDS = 60
# Slices in which is waited for another process, between which is looked whether one has failed.
_SLICE_SECONDS = 1.0
# How long a process that ends waits for the others to hear of it.
_FAREWELL_SECONDS = 10.0
_PREFIX = "boltzflow"

# What the guard of this process runs: it says the last line it was told, unless that is a dot, when its pipe closes.
_GUARD = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
last = "."
for line in sys.stdin:
    last = line.strip()
if last != ".":
    print(last, file=sys.stderr, flush=True)
"""


class _State:
    """What this process knows of the others."""

    hosts: tuple[str, ...] = ()
    turn: int = 0
    guard: "subprocess.Popen[str] | None" = None


_state = _State()


def initialise(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, *, seconds: int = CONNECT_SECONDS
) -> None:
    """Joins the processes of this job, before anything else is done with JAX.

    SLURM, Open MPI and Kubernetes are recognised by JAX; elsewhere the three arguments tell what it needs to know.

    Args:
        coordinator: HOST:PORT at which process 0 answers.
        processes: how many there are.
        process: number of this one, from 0.
        seconds: how long to wait for the others.

    Raises:
        ConfigError: if the arguments are incomplete or no queue is recognised.
        RunError: if the coordinator does not answer, or cannot be started.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given) and None in given:
        raise ConfigError("--coordinator, --processes and --process belong together; give all three, or none in a queue.")
    if process is not None and processes is not None and not 0 <= process < processes:
        raise ConfigError(f"--process {process} does not exist; {processes} processes are numbered from 0 to {processes - 1}.")
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ConfigError(f"--coordinator must be HOST:PORT, got {coordinator!r}.")
    import jax

    # JAX would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator"
    _guard(
        f"the processes of this job did not find each other at {where} within {seconds} s ({_here()}); see whether all were started and "
        "can reach that host."
    )
    if coordinator is not None and process:
        _reach(coordinator, seconds)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=seconds, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        farewell()
        if "should be defined" in str(error) or "must be defined" in str(error):
            raise ConfigError(
                "--distributed found no SLURM, Open MPI or Kubernetes around it; start it by one of them, or give --coordinator HOST:PORT, "
                "--processes N and --process K."
            ) from error
        raise RunError(f"process {process} on {socket.gethostname()} cannot join at {where}: {_first_line(error)}.") from error
    meet()


def _reach(coordinator: str, seconds: float) -> None:
    """Waits until the coordinator answers, for JAX's own client would end the process without a sentence.

    Raises:
        RunError: if it does not.
    """
    host, _, port = coordinator.rpartition(":")
    deadline, wait, reason = time.monotonic() + seconds, 0.05, ""
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=max(0.1, min(5.0, deadline - time.monotonic()))).close()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return
        time.sleep(wait)
        wait = min(1.0, 1.5 * wait)
    farewell()
    raise RunError(
        f"the coordinator {coordinator} does not answer after {seconds:g} s, asked from {socket.gethostname()} ({reason}); see whether "
        "process 0 was started there and its port is open."
    )


def _client() -> Any:
    """JAX's coordination client; None where this process is alone."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed

    return distributed.global_state.client


def joined() -> bool:
    """Whether this process is one of several."""
    return _client() is not None and count() > 1


def count() -> int:
    """Number of processes."""
    if _client() is None:
        return 1
    from jax._src import distributed

    return int(distributed.global_state.num_processes)


def index() -> int:
    """Number of this process, from 0."""
    if _client() is None:
        return 0
    from jax._src import distributed

    return int(distributed.global_state.process_id)


def chief() -> bool:
    """Whether this process is the one that writes."""
    return index() == 0


def named(process: int) -> str:
    """A process in words, with its host."""
    host = _state.hosts[process] if process < len(_state.hosts) else "an unknown host"
    return f"process {process} on {host}"


def _here() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def meet() -> None:
    """Learns on which hosts the processes are; once, by whoever comes first to need it."""
    if not joined() or _state.hosts:
        return
    client = _client()
    client.key_value_set(f"{_PREFIX}/host/{index()}", socket.gethostname())
    _state.hosts = tuple(_awaited(f"{_PREFIX}/host/{other}") for other in range(count()))
    _guard(
        f"{named(index())} was ended because another of the {count()} processes, such as {named(0)}, has gone or cannot be reached any "
        "more; what was saved is kept, start all again to go on."
    )


def agree(facts: Mapping[str, Any], advice: str) -> None:
    """Makes sure that all processes say the same.

    Args:
        facts: what must be the same, by name, such as "the version of jax"; as JSON has it.
        advice: what to do where they differ.

    Raises:
        ConfigError: in all processes; names what differs, and where.
    """
    if not joined():
        return
    meet()
    turn = _next()
    _client().key_value_set(f"{turn}/{index()}", json.dumps(dict(facts)))
    said = [json.loads(_awaited(f"{turn}/{other}")) for other in range(count())]
    for other in range(1, count()):
        for what in {**said[0], **said[other]}:
            one, two = said[0].get(what), said[other].get(what)
            if one != two:
                raise ConfigError(f"{what} is {_shown(one)} for {named(0)}, but {_shown(two)} for {named(other)}; {advice}")


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def first(work: Callable[[], T]) -> T:
    """What process 0 finds out by some work, told to all; the others wait, however long it takes.

    Args:
        work: gives what JSON has.

    Raises:
        BoltzflowError: what the work raises in process 0, in all of them.
    """
    if not joined():
        return work()
    meet()
    turn = _next()
    if not chief():
        kind, value = json.loads(_awaited(turn))
        if kind is None:
            return value
        raise getattr(errors, kind, RunError)(f"{named(0)}: {value}")
    try:
        value = work()
    except BoltzflowError as error:
        # Signals are told by those who got them.
        name = type(error).__name__ if not isinstance(error, errors.RunInterrupted) else "RunError"
        _client().key_value_set(turn, json.dumps([name, str(error)]))
        raise
    _client().key_value_set(turn, json.dumps([None, value]))
    return value


def together() -> None:
    """Waits until all processes have come here: process 0 may have had something to do that takes longer than JAX waits for it."""
    first(lambda: None)


@contextlib.contextmanager
def held(make: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[None]:
    """Something that process 0 holds while the block runs, such as a lock.

    Args:
        make: takes hold of it.
    """
    with contextlib.ExitStack() as stack:
        first(lambda: (stack.enter_context(make()), None)[1])
        yield


def broadcast(tree: Any) -> Any:
    """The arrays of process 0, on the host, in all of them; the others give arrays of the same shapes."""
    if not joined():
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def _next() -> str:
    _state.turn += 1
    return f"{_PREFIX}/turn/{_state.turn}"


def _awaited(key: str) -> str:
    """What another process says under a key, whenever it does.

    Raises:
        PeerLost: if a process has failed meanwhile.
    """
    while True:
        try:
            return _client().blocking_key_value_get(key, int(1000 * _SLICE_SECONDS))
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise lost(error) from error
        if (sentence := _failure()) is not None:
            raise PeerLost(sentence)


def _failure() -> str | None:
    """What a process that has failed said last; None where all is well."""
    with contextlib.suppress(Exception):
        notes = _client().key_value_dir_get(f"{_PREFIX}/failed/")
        return next((text for key, text in notes if not key.endswith(f"/{index()}")), None)
    return None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Turns the error of a collective whose other end is gone into a sentence that says whose it was."""
    try:
        yield
    except BoltzflowError:
        raise
    except (ValueError, RuntimeError) as error:
        if not joined() or not re.search(r"Gloo|NCCL|collective|UNAVAILABLE|DEADLINE_EXCEEDED|heartbeat|Socket closed", str(error)):
            raise
        raise lost(error) from error


def lost(error: BaseException) -> PeerLost:
    """The sentence about a connection that broke: the failure that another process has told, or which one has gone without a word."""
    if (sentence := _failure()) is not None:
        return PeerLost(sentence)
    gone = ""
    try:
        _client().wait_at_barrier(f"{_PREFIX}/lost", int(1000 * _FAREWELL_SECONDS / 2))
    except Exception as found:
        gone = ", ".join(named(number) for number in _absent(str(found)) if number < count() and number != index())
    if (sentence := _failure()) is not None:
        return PeerLost(sentence)
    others = ", ".join(named(other) for other in range(count()) if other != index())
    return PeerLost(
        f"{gone or f'one of the other processes ({others})'} has gone or cannot be reached any more ({_first_line(error)}); what was saved "
        "is kept, start all again to go on."
    )


def _absent(message: str) -> list[int]:
    """Processes that JAX's error about a barrier says are missing: a list of lines, or one by one."""
    listed = re.search(r"timed out task names:\s*((?:[\w:/]*\d+\s*)+)", message, re.IGNORECASE)
    single = re.findall(r"\bTask:? (\d+)", message)
    return sorted({int(re.findall(r"\d+", name)[-1]) for name in (listed[1].split() if listed else single)})


def leave(code: int, sentence: str = "") -> None:
    """Ends the membership of this process; one that ends badly tells the others why, and then ends at once.

    Args:
        code: exit code of the process.
        sentence: why it ends, where that is not 0.
    """
    if not joined():
        farewell()
        return
    if not code:
        import jax

        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        farewell()
        return
    with contextlib.suppress(Exception):
        if _failure() is None:
            _client().key_value_set(f"{_PREFIX}/failed/{index()}", f"{named(index())}: {sentence}" if _state.hosts else sentence)
        # If process 0 went first, the others would be ended by JAX before they have read it.
        _client().wait_at_barrier(f"{_PREFIX}/farewell", int(1000 * _FAREWELL_SECONDS))
    farewell()
    sys.stdout.flush()
    sys.stderr.flush()
    # JAX would wait for processes that do not come any more.
    os._exit(code)


def _guard(sentence: str) -> None:
    """Sees to it that this process does not end without a sentence: JAX's runtime ends it by force where it loses the others."""
    if _state.guard is None:
        _state.guard = subprocess.Popen([sys.executable, "-S", "-c", _GUARD], stdin=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    _tell_guard(f"boltzflow: error: {sentence}")


def farewell() -> None:
    """From here on this process may end without its guard saying anything."""
    if _state.guard is not None:
        _tell_guard(".")
        guard, _state.guard = _state.guard, None
        with contextlib.suppress(OSError):
            if guard.stdin is not None:
                guard.stdin.close()
        guard.wait()


def _tell_guard(line: str) -> None:
    if _state.guard is not None and _state.guard.stdin is not None:
        with contextlib.suppress(OSError):
            _state.guard.stdin.write(f"{line}\n")
            _state.guard.stdin.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
