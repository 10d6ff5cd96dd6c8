"""Ctrl-C, SIGTERM and SIGUSR1 during training."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interruption(threading.Event):
    """Set when the run is to end; `by` is the number of the signal."""

    by: int = signal.SIGINT


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into an event while the block runs: a step is finished and saved before the process ends.

    The last is what queues send some time before a job must end, where they are asked to. A second signal is handled as it was before:
    Ctrl-C raises at once.
    """
    event = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, _: Any) -> None:
        event.by = number
        event.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
