"""Energies while Dask's workers are killed: whether all come, in order, and how many are computed twice.

    python benchmarks/lost_workers.py [TIMES]

Four workers on this machine compute 10 000 energies of 1 ms each; at a random moment two of them are killed, TIMES times over (10).
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

N, WORKERS, KILLED, SECONDS = 10_000, 4, 2, 0.001


class Counted:
    """An energy that takes its time and leaves a note of each evaluation, in a file of the process that makes it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, positions: np.ndarray) -> float:
        """The energy."""
        time.sleep(SECONDS)
        with (Path(self.folder) / str(os.getpid())).open("a") as file:
            file.write("x")
        return energy_of(positions)


def energy_of(positions: np.ndarray) -> float:
    return float(0.5 * np.sum((positions - positions.mean(axis=0, keepdims=True)) ** 2))


def evaluations(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir())


def kill_some(client: Any) -> int:
    """Kills workers, at once; how many."""
    pids = list(client.run(os.getpid).values())[:KILLED]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def one(client: Any, moment: float) -> dict[str, Any]:
    from boltzflow import targets

    with tempfile.TemporaryDirectory() as folder:
        target = targets.from_calculator(
            Counted(folder), 3, 2, name="counted", executor=client.get_executor(pure=False), classes=(0, 0, 0), reflections=True
        )
        positions = np.random.default_rng(0).normal(size=(N, 3, 2))
        killed: list[int] = []
        done = threading.Event()

        def killing() -> None:
            while not evaluations(folder):
                time.sleep(0.01)
            time.sleep(moment)
            killed.append(0 if done.is_set() else kill_some(client))

        thread = threading.Thread(target=killing)
        thread.start()
        began = time.monotonic()
        energy: Any = target.energy_function
        found = energy.in_double(positions)
        seconds = time.monotonic() - began
        done.set()
        thread.join()
        expected = np.array([energy_of(x) for x in positions])
        return {
            "alike": bool(np.array_equal(found, expected)),
            "killed": killed[0],
            "twice": evaluations(folder) - N,
            "seconds": seconds,
        }


def main(times: int) -> None:
    import distributed
    from dask import config

    # A cluster of this kind gives up workers that are not back in 15 s, which a busy machine does not manage.
    config.set({"distributed.deploy.lost-worker-timeout": "600s"})
    rng, found = random.Random(0), []
    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        for number in range(times):
            client.wait_for_workers(WORKERS, timeout=300)
            moment = rng.uniform(0.0, 2.5)
            found.append(one(client, moment))
            print(f"{number + 1}: two killed after {moment:.2f} s; {found[-1]}", flush=True)
            # The scheduler has to hear of the loss first.
            time.sleep(1.0)
    hit = [run for run in found if run["killed"]]
    print(
        f"{len(hit)} of {times} hit; {sum(run['alike'] for run in found)} of {times} complete and in order; computed twice, of {N}: "
        f"{sorted(run['twice'] for run in hit)}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
