"""Two processes of one job on this machine, over loopback, with JAX's own runtime."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from killing import command


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Pair:
    """Two processes of one job."""

    def __init__(self, *words: object, own: Sequence[Sequence[object]] = ((), ())) -> None:
        joined = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process"]
        self.processes = [
            subprocess.Popen(
                command(*words, *own[number], *joined, number), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
            for number in (0, 1)
        ]

    def wait(self) -> tuple[list[int], list[str]]:
        """Exit codes, and what was said on stderr."""
        try:
            said = [process.communicate(timeout=300)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], said

    def until(self, seen: Callable[[], bool]) -> None:
        """Waits until something has happened, or they have ended."""
        deadline = time.monotonic() + 300
        while not seen() and time.monotonic() < deadline and all(process.poll() is None for process in self.processes):
            time.sleep(0.01)


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM")} | {"BOLTZFLOW_CONNECT_SECONDS": "120"}
