"""Work that the processes of one job divide: each makes a shard of its own in a folder that all see, and the first one joins them.

Nothing but their agreement and the end of each goes over the network, so that what is done outlasts every process.
"""

import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from boltzflow import cluster, files
from boltzflow.errors import ConfigError, RunError, RunInterrupted
from boltzflow.shards import Shard

SEEN_SECONDS = 60.0
"""How long is waited for a file that another host has written: shared folders tell of it late."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def own() -> Shard:
    """The shard of this process."""
    return cluster.index() + 1, cluster.count()


def part_of(path: Path, shard: Shard) -> Path:
    """The file of a shard, beside that of all of them.

    Args:
        path: file of all.
        shard: (k, K), counted from 1.
    """
    return path.with_name(f"{path.stem}.shard{shard[0]}of{shard[1]}{path.suffix}")


def refuse(reason: str, **given: Any) -> None:
    """Refuses options that do not go together with `--distributed`.

    Args:
        reason: why.
        **given: options by name; None, False or "none" where they were not given.

    Raises:
        ConfigError: names the first that was.
    """
    for name, value in given.items():
        if value not in (None, False, "none"):
            raise ConfigError(f"--{name} does not apply with --distributed: {reason}")


def agree(facts: Mapping[str, Any]) -> None:
    """Makes sure that all processes do the same with the same programs.

    Args:
        facts: beside versions and source, by name.

    Raises:
        ConfigError: in all of them; names what differs and the hosts.
    """
    from boltzflow.training.agreement import programs

    cluster.agree({**facts, **programs()}, "start all processes with the same command, in the same environment.")


def require_shared(folder: Path) -> None:
    """Makes sure that all processes see one folder and may write into it.

    Args:
        folder: made if need be.

    Raises:
        RunError: names the host that does not see it, or may not write.
    """

    def leave_note() -> str:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / f".boltzflow-{secrets.token_hex(8)}"
            note.touch()
        except OSError as error:
            raise RunError(f"cannot write into {folder} on {socket.gethostname()}: {files.reason(error)}; choose another place.") from error
        return note.name

    note = folder / cluster.first(leave_note)
    try:
        if not _seen(note):
            raise RunError(
                f"{folder} is not the same folder on {socket.gethostname()} as on the host of process 0; name one that all hosts share."
            )
        files.require_writable(folder / "part")
    except RunError as error:
        here = socket.gethostname()
        raise (error if here in str(error) else RunError(f"{str(error).rstrip('.')}, on {here}.")) from error
    finish()
    if cluster.chief():
        note.unlink(missing_ok=True)


def _seen(path: Path) -> bool:
    """Whether a file is there, or comes soon."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        with contextlib.suppress(OSError):
            # A listing makes network file systems look anew.
            list(path.parent.iterdir())
        time.sleep(0.2)
    return True


def finish() -> None:
    """Waits until all processes have come here, however long it takes.

    Raises:
        PeerLost: if one of them has gone or failed.
    """
    cluster.agree({}, "")


def joined(path: Path, join: Callable[[Sequence[Path], Path], int]) -> int:
    """Joins the shards of all processes once they are there, and removes them; process 0 does so, the others wait.

    Args:
        path: file of all.
        join: joins files of shards into one, and gives the number of what it holds.

    Returns:
        That number.

    Raises:
        RunError: if a shard cannot be seen, or they cannot be joined.
    """
    finish()

    def work() -> int:
        parts = [part_of(path, (number, cluster.count())) for number in range(1, cluster.count() + 1)]
        for number, part in enumerate(parts):
            if not _seen(part):
                raise RunError(f"{part}, which {cluster.named(number)} has written, cannot be seen on {socket.gethostname()}.")
        found = join(parts, path)
        for part in parts:
            part.unlink(missing_ok=True)
        return found

    return cluster.first(work)


@contextlib.contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Ends the work in order when a queue warns by SIGTERM or SIGUSR1, so that the other processes hear of it.

    Args:
        kept: what is kept and how to go on, as a part of a sentence.

    Raises:
        RunInterrupted: when a signal comes.
    """
    if not cluster.joined():
        yield
        return

    by: list[int] = []

    def end(number: int, _: Any) -> None:
        by.append(number)
        # As Ctrl-C, after which what is done is kept.
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    except (KeyboardInterrupt, RunInterrupted) as error:
        if not by:
            raise
        name = signal.Signals(by[0]).name
        raise RunInterrupted(f"{cluster.named(cluster.index())} was interrupted by {name}; {kept}.", by[0]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
