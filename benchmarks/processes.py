"""Training by two processes against two devices of one process, on this machine: wall and CPU seconds of the same steps, in turn.

    python benchmarks/processes.py [ROUNDS]

LJ13, flow matching with independent pairs, 40 steps of a batch of 128, of which the first 10 (compilation, start) are left out. CPU
seconds are those of all processes, and tell of the work where other work takes the cores.
"""

import dataclasses
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

STEPS, LEFT_OUT, BATCH = 40, 10, 128


def preset(folder: Path) -> Path:
    """A preset of a few steps, on frames beside it."""
    from boltzflow.config import Adam, DataConfig, RunOptions, Stage
    from boltzflow.config import io as config_io
    from boltzflow.config.objectives import FlowMatching, Independent
    from boltzflow.datasets import Dataset
    from boltzflow.targets import get

    target = get("lj13")
    frames = np.random.default_rng(0).normal(size=(1024, 13, 3)).astype(np.float32)
    Dataset(frames - frames.mean(axis=1, keepdims=True), target.fingerprint, target.units).save(folder / "frames.h5")
    config = dataclasses.replace(
        config_io.load_preset("lj13"),
        data=DataConfig(path=str(folder / "frames.h5"), validation=8, allow_virial_mismatch=True),
        stages=(Stage(FlowMatching(pairing=Independent()), Adam(warmup_steps=0), steps=STEPS, batch_size=BATCH, microbatch=BATCH // 2),),
        run=RunOptions(log_every=1, checkpoint_every=10 * STEPS),
    )
    config_io.save_config(config, folder / "preset.yaml")
    return folder / "preset.yaml"


def command(*words: object) -> list[str]:
    """A process of the command line."""
    return [sys.executable, "-c", f"import sys\nfrom boltzflow.cli import main\nsys.exit(main({[str(word) for word in words]!r}))"]


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of processes so far, all threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(commands: list[list[str]], run: Path) -> tuple[float, float]:
    """Wall and CPU seconds from the step that is left out last to the last but one."""
    processes = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for words in commands]
    marks: list[tuple[float, float]] = []
    metrics = run / "metrics.jsonl"
    while len(marks) < 2 and all(process.poll() is None for process in processes):
        done = metrics.read_text().count("\n") if metrics.is_file() else 0
        if done >= (LEFT_OUT, STEPS - 1)[len(marks)]:
            marks.append((time.monotonic(), cpu_seconds([process.pid for process in processes])))
        time.sleep(0.005)
    if [process.wait() for process in processes] != [0] * len(processes) or len(marks) < 2:
        raise SystemExit("a training failed")
    return marks[1][0] - marks[0][0], marks[1][1] - marks[0][1]


def main(rounds: int) -> None:
    """Measures in turn and prints the ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, found = preset(folder), []
        for number in range(rounds):
            run = folder / f"one{number}"
            one = measured([command("train", file, "-o", run, "--set", "run.devices=2")], run)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            run = folder / f"two{number}"
            joined = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process"]
            two = measured([command("train", file, "-o", run, *joined, process) for process in (0, 1)], run)
            found.append((one[0] / two[0], one[1] / two[1]))
            print(f"{number + 1}: one process {one[0]:.2f} s, CPU {one[1]:.2f} s; two {two[0]:.2f} s, CPU {two[1]:.2f} s", flush=True)
        for name, ratios in zip(("wall", "CPU"), zip(*found, strict=True), strict=True):
            print(f"efficiency by {name} time: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
