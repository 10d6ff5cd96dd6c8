"""Mean reduced energy of a Lennard-Jones cluster by single-particle Metropolis moves, far apart from the package's own sampler.

    python tools/lennard_jones_mean_energy.py [-n 13] [--epsilon 2] [--moves 1e9] [--chains 16] [--seed 0]

The known values of `boltzflow.targets.lennard_jones` come from it: nothing in it is shared with the code that they are to check.
The interval comes from the spread of the chains, which begin at different configurations.
"""

import argparse
import time

import numba
import numpy as np


@numba.njit(fastmath=True)
def _pair(squared: float, epsilon: float, trap: float) -> float:
    attraction = 1.0 / (squared * squared * squared)
    # The trap around the centre of mass is a sum over pairs: N times the sum over |x_i - mean|² is the sum over pairs of r².
    return epsilon * attraction * (attraction - 2.0) + trap * squared


@numba.njit(fastmath=True)
def _chain(positions: np.ndarray, moves: int, step: float, epsilon: float, seed: int) -> tuple[float, float]:
    """Mean energy over the moves, and the share of moves that were accepted."""
    np.random.seed(seed)
    n = positions.shape[0]
    trap = 0.5 / n
    energy = 0.0
    for i in range(n):
        for j in range(i):
            energy += _pair(np.sum((positions[i] - positions[j]) ** 2), epsilon, trap)
    total, accepted = 0.0, 0
    new = np.empty(3)
    for _ in range(moves):
        i = np.random.randint(n)
        for a in range(3):
            new[a] = positions[i, a] + step * (2.0 * np.random.random() - 1.0)
        change = 0.0
        for j in range(n):
            if j != i:
                old_squared, new_squared = 0.0, 0.0
                for a in range(3):
                    old_squared += (positions[i, a] - positions[j, a]) ** 2
                    new_squared += (new[a] - positions[j, a]) ** 2
                change += _pair(new_squared, epsilon, trap) - _pair(old_squared, epsilon, trap)
        if change <= 0.0 or np.random.random() < np.exp(-change):
            energy += change
            accepted += 1
            for a in range(3):
                positions[i, a] = new[a]
        total += energy
    return total / moves, accepted / moves


@numba.njit(parallel=True)
def _chains(positions: np.ndarray, moves: int, step: float, epsilon: float, seed: int) -> np.ndarray:
    results = np.empty((positions.shape[0], 2))
    for c in numba.prange(positions.shape[0]):
        # A tenth of the moves, whose mean is thrown away, lets the chain forget where it began.
        _chain(positions[c], moves // 10, step, epsilon, seed + 2 * c)
        results[c, 0], results[c, 1] = _chain(positions[c], moves, step, epsilon, seed + 2 * c + 1)
    return results


def main() -> None:
    """Prints the mean energy with its standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=13, help="particles")
    parser.add_argument("--epsilon", type=float, default=2.0, help="depth of the pair potential in kT, each pair counted once")
    parser.add_argument("--moves", type=float, default=1e9, help="moves of all chains together")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--step", type=float, default=0.25, help="largest displacement along an axis")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    side = int(np.ceil(arguments.n ** (1 / 3))) + 1
    lattice = 1.1 * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)
    lattice -= lattice.mean(axis=0)
    starts = []
    for _ in range(arguments.chains):
        centre = rng.uniform(-0.5, 0.5, 3)
        starts.append(lattice[np.argsort(np.sum((lattice - centre) ** 2, axis=1))[: arguments.n]])
    moves = int(arguments.moves) // arguments.chains
    began = time.perf_counter()
    results = _chains(np.stack(starts), moves, arguments.step, arguments.epsilon, 1000 * arguments.seed)
    mean, error = results[:, 0].mean(), results[:, 0].std(ddof=1) / np.sqrt(arguments.chains)
    print(
        f"{arguments.n} particles, epsilon {arguments.epsilon:g}: mean energy {mean:.4f} ± {error:.4f} (standard error over "
        f"{arguments.chains} chains of {moves:,} moves, {results[:, 1].mean():.0%} accepted, {time.perf_counter() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
