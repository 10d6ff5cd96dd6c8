"""Kills a command at random moments and continues it: what helps the tests of every verb that can be resumed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def command(*words: object) -> list[str]:
    """A process of the command line."""
    return [sys.executable, "-c", f"import sys\nfrom boltzflow.cli import main\nsys.exit(main({[str(word) for word in words]!r}))"]


def run(words: Sequence[object]) -> float:
    """Runs a command to its end, which must be good, and returns the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - began


def killed(words: Sequence[object], *, after: float, started: Callable[[], bool]) -> bool:
    """Kills a command some seconds after it has begun its work; whether it was still running then."""
    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None and not started():
            time.sleep(0.005)
        deadline = time.monotonic() + after
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        running = process.poll() is None
    finally:
        if process.poll() is None:
            # The group, so that workers go as well.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return running


def digest(*files: Path) -> str:
    """SHA-256 of files, one after the other."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def resumes_alike(
    begin: Callable[[Path], Sequence[object]],
    resume: Callable[[Path], Sequence[object]],
    result: Callable[[Path], object],
    folder: Path,
    *,
    times: int,
    started: Callable[[Path], bool] = lambda place: True,
    prepare: Callable[[Path], None] = lambda place: None,
    seed: int = 0,
) -> int:
    """Kills a command at random moments and continues it, again and again; each time it must end as it does undisturbed.

    Args:
        begin: the words of the command that works in a place (a folder of its own).
        resume: the words that continue it there.
        result: what must be the same, such as a hash of the files.
        folder: where the places are made.
        times: how often.
        started: whether the work in a place has begun; moments are drawn from there on.
        prepare: puts into a place what the command needs.
        seed: of the moments.

    Returns:
        How many of the processes were killed while they were running.
    """
    rng = random.Random(seed)

    def place(name: str) -> Path:
        made = folder / name
        made.mkdir(parents=True)
        prepare(made)
        return made

    whole = place("whole")
    run(begin(whole))
    expected, again = result(whole), place("timed")
    # With everything compiled, from the start of the work to its end.
    process = subprocess.Popen(command(*begin(again)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not started(again):
        time.sleep(0.005)
    began = time.monotonic()
    assert process.wait() == 0
    length = time.monotonic() - began
    assert result(again) == expected, "two undisturbed runs differ"
    hit = 0
    for number in range(times):
        here = place(f"broken-{number}")
        hit += killed(begin(here), after=rng.uniform(0.0, length), started=lambda here=here: started(here))
        run(resume(here))
        assert result(here) == expected, f"the run that was killed in {here} ended otherwise"
    return hit
