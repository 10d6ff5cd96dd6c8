"""What turns about bonds win in the tempering sampler: effective samples per second of slow coordinates, with and without them in one run.

    python benchmarks/turning.py [--target alanine-dipeptide] [--chains 16] [--sweeps 800] [--rounds 1]

Each round is a pair: both samplers with the same chains, temperatures, warm-up and sweeps, one after the other in this process; compiling
and warm-up are not counted. The effective number is that of `reference.diagnostics.bulk_ess`, all chains together.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

from boltzflow import targets
from boltzflow.analysis import internal_coordinates
from boltzflow.reference import effort
from boltzflow.reference.diagnostics import bulk_ess, split_r_hat
from boltzflow.reference.islands import Islands, join
from boltzflow.reference.sampler import default_temperatures

WARM_UP = ((100, 0.5), (100, 0.1))


def run(target: targets.Target, turning: int, chains: int, sweeps: int, seed: int) -> dict[str, tuple[float, float]]:
    """Effective samples per second and R-hat by coordinate."""
    spent = dataclasses.replace(effort.of_name("compiled", target), turning=turning)
    with Islands(target, default_temperatures(target), chains, 20, spent, key=jax.random.key(seed)) as islands:
        for number, gain in WARM_UP:
            islands.warm_up(number, gain)
        began = time.perf_counter()
        drawn = join([islands.produce(1) for _ in range(sweeps // 20)])
        seconds = time.perf_counter() - began
    positions = np.swapaxes(np.asarray(drawn.positions, np.float64), 0, 1)
    residue = internal_coordinates.backbones(target.topology)[0]
    phi, psi = (internal_coordinates.torsions(positions, np.array([atoms]))[..., 0] for atoms in (residue.phi, residue.psi))
    coordinates = {"cos psi": np.cos(psi), "phi > 0": (phi > 0).astype(float), "cos phi": np.cos(phi)}
    found = {name: (bulk_ess(values) / seconds, split_r_hat(values)) for name, values in coordinates.items()}
    means = ", ".join(f"{name} {values.mean():.3f}" for name, values in coordinates.items())
    accepted = ", ".join(f"{a:.2f}" for a in np.asarray(drawn.info.turn).mean(axis=0))
    print(f"turns {turning}: {seconds:.0f} s; means {means}; turns accepted {accepted}", flush=True)
    return found


def main() -> None:
    """Prints a line for each coordinate and round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="alanine-dipeptide")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--sweeps", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    target = targets.get(options.target)
    for seed in range(options.rounds):
        without, turned = (
            run(target, turning, options.chains, options.sweeps, seed) for turning in (0, effort.of_name("compiled", target).turning)
        )
        for name, (rate, r_hat) in turned.items():
            before, r_hat_before = without[name]
            print(
                f"{name}: {before:.3f} -> {rate:.3f} effective samples per second, {rate / before:.1f} times; "
                f"R-hat {r_hat_before:.3f} -> {r_hat:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
