"""Ctrl-C: the first one ends the work in order, the second one ends the process at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

EXIT_CODE = 130


@contextlib.contextmanager
def second_ends_at_once() -> Iterator[None]:
    """While the block runs, a second Ctrl-C ends the process at once, whatever it does.

    Python's own handlers run between two of its instructions, and a program that XLA compiles or computes can take minutes. So a thread
    is told of each signal by the system's handler itself, through a socket.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    counted = [0]
    threading.Thread(target=_watch, args=(reading, counted), name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        # What is left to do of an interrupted process may hang as well as what it did.
        if not counted[0]:
            signal.set_wakeup_fd(before)
            writing.close()


def _watch(reading: socket.socket, counted: list[int]) -> None:
    """Counts interrupts until the other end is closed."""
    with reading:
        while numbers := reading.recv(64):
            counted[0] += numbers.count(signal.SIGINT)
            if counted[0] > 1:
                with contextlib.suppress(Exception):
                    sys.stderr.write("boltzflow: interrupted twice, ended at once.\n")
                    sys.stderr.flush()
                os._exit(EXIT_CODE)
