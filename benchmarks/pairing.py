"""Seconds and mean costs of the pairings for LJ13 at B = 256.

    python benchmarks/pairing.py [--threads 2] [--batch 256] [--repeats 9]

The frames come from a short Metropolis run of LJ13 (epsilon 2, oscillator 1), good enough for costs; the prior is the centred normal.
"""

import argparse
import statistics
import time

import numba
import numpy as np

from boltzflow.objectives.pairing import pair

FORMS = [
    ("independent", "independent", False),
    ("optimal transport", "optimal-transport", False),
    ("equivariant, cheap", "equivariant-optimal-transport", False),
    ("equivariant, full", "equivariant-optimal-transport", True),
]


@numba.njit
def _energy(x, i, y):
    """What particle i adds at position y to 2 sum_{i<j} (r^-12 - 2 r^-6) + sum_j |x_j - mean|²/2, up to a constant."""
    n = x.shape[0]
    energy = 0.0
    rest = np.zeros(3)
    for j in range(n):
        if j != i:
            s = ((x[j, 0] - y[0]) ** 2 + (x[j, 1] - y[1]) ** 2 + (x[j, 2] - y[2]) ** 2) ** -3
            energy += 2.0 * (s * s - 2.0 * s)
            for k in range(3):
                rest[k] += x[j, k]
    for k in range(3):
        energy += 0.5 * (y[k] ** 2 - (rest[k] + y[k]) ** 2 / n)
    return energy


@numba.njit
def _metropolis(x, sweeps, step, seed):
    """Single-particle moves of each chain x[c] in place."""
    np.random.seed(seed)
    for c in range(x.shape[0]):
        for _ in range(sweeps):
            for i in range(x.shape[1]):
                new = x[c, i] + step * np.random.normal(0.0, 1.0, 3)
                if np.log(np.random.random()) < _energy(x[c], i, x[c, i]) - _energy(x[c], i, new):
                    x[c, i] = new


def lj13_frames(n_frames: int, seed: int = 0) -> np.ndarray:
    """Centred LJ13 frames (n_frames, 13, 3), float32, one from each of as many chains."""
    x = 1.3 * np.random.default_rng(seed).normal(size=(n_frames, 13, 3))
    _metropolis(x, 1500, 0.12, seed)
    return (x - x.mean(axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Prints one line per pairing: median and least seconds, mean cost before and after."""
    parser = argparse.ArgumentParser(description="Seconds and mean costs of the pairings for LJ13.")
    parser.add_argument("--threads", type=int, default=0, help="threads of the pairing; 0: all cores")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    frames = lj13_frames(2 * options.batch)
    rng = np.random.default_rng(1)
    batches = []
    for _ in range(options.repeats):
        prior = rng.normal(size=(options.batch, 13, 3)).astype(np.float32)
        batches.append((prior - prior.mean(axis=1, keepdims=True), frames[rng.permutation(len(frames))[: options.batch]]))
    print(f"LJ13, B = {options.batch}, threads = {options.threads or 'all'}, {options.repeats} batches")
    print(f"{'pairing':20s} {'median s':>10s} {'least s':>10s} {'first s':>10s} {'cost':>8s} {'of independent':>15s}")
    for label, pairing, full_cost in FORMS:
        arguments = {"pairing": pairing, "full_cost": full_cost, "classes": np.zeros(13, int), "reflections": True}
        started = time.perf_counter()
        pair(*batches[0], threads=options.threads, **arguments)
        first = time.perf_counter() - started
        infos = [pair(*batch, threads=options.threads, **arguments)[2] for batch in batches]
        seconds = [info.seconds for info in infos]
        cost = statistics.fmean(info.cost_after for info in infos)
        share = cost / statistics.fmean(info.cost_before for info in infos)
        print(f"{label:20s} {statistics.median(seconds):10.5f} {min(seconds):10.5f} {first:10.3f} {cost:8.3f} {share:14.1%}")


if __name__ == "__main__":
    main()
