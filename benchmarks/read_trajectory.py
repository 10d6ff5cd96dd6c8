"""How long frames of another program take to be read: 100 000 of alanine dipeptide from XTC.

    python benchmarks/read_trajectory.py [--frames 100000] [--ending .xtc] [--box]

Prints the median of some repeats of reading alone (`datasets.trajectories.read`: the file, the order of atoms, molecules made whole) and
of all that `datasets.load` does, which is mostly the virial check: an energy and a gradient of each frame. The target, which is compiled
once, is not counted.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np

from boltzflow import datasets, targets
from boltzflow.datasets import trajectories


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--ending", default=".xtc", choices=[".xtc", ".dcd", ".trr", ".h5"])
    parser.add_argument("--box", action="store_true", help="a periodic box, over whose border the molecule lies")
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    target = targets.get("alanine-dipeptide")
    assert target.structure is not None
    topology = mdtraj.Topology.from_openmm(target.topology)
    rng = np.random.default_rng(0)
    frames = (target.structure + 0.005 * rng.standard_normal((words.frames, target.n_particles, 3))).astype(np.float32)
    trajectory = mdtraj.Trajectory(frames, topology)
    if words.box:
        trajectory.xyz = (frames + 2.0) % 2.0
        trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((words.frames, 3), 2.0), np.full((words.frames, 3), 90.0)
    target.energies_and_gradients(frames[: min(4096, words.frames)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"frames{words.ending}"
        trajectory.save(str(path))
        print(f"{words.frames} frames of {target.n_particles} atoms, {path.stat().st_size / 1e6:.0f} MB of {words.ending}")
        told("reading", lambda: trajectories.read(path, target), words.repeats)
        told("reading and checking", lambda: datasets.load(path, target, allow_virial_mismatch=True), words.repeats)


def told(what: str, work: Callable[[], object], repeats: int) -> None:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    print(f"{what}: {statistics.median(seconds):.2f} s, from {min(seconds):.2f} to {max(seconds):.2f} ({repeats} repeats)")


if __name__ == "__main__":
    main()
