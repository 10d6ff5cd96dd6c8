"""Compares three ways to the same averages: reweighted samples of a flow, samples and frames by Bennett's ratio, and frames alone.

    python tools/three_ways.py [--only dw4 ...] [--scale 1.0] [--seed 0]

Prints rows of the table in docs/reweighting.md: log Z, the mean energy in kT, and of alanine dipeptide the free energy of phi > 0 above
phi < 0 in kT. Frames are made anew with a seed that no model was trained on.
"""

import argparse
from collections.abc import Iterator

import numpy as np

import boltzflow as bf
from boltzflow import reference
from boltzflow.analysis import Estimate, correlation, free_energy, internal_coordinates, metrics
from boltzflow.evaluation.figures import REFERENCE_SEED

# Samples and frames.
N = {"dw4": (10_000, 10_000), "lj13": (4_000, 4_000), "lj13-eacf": (10_000, 4_000), "alanine-dipeptide-eacf": (4_000, 4_000)}


def text(estimate: Estimate | None) -> str:
    """A cell."""
    return "" if estimate is None else " ".join(estimate.texts()).strip()


def rows(name: str, n: int, frames: int, *, seed: int) -> Iterator[tuple[str, str, str, str, str]]:
    """The lines of a model: quantity, known, reweighted, joined, frames alone."""
    model = bf.load_model(name)
    target = model.target
    samples = model.sample(n, seed=seed)
    data = reference.sample(target, frames, seed=REFERENCE_SEED).dataset
    both = model.bar(samples, data, seed=seed)
    u = np.asarray(data.energies, np.float64)
    exact = target.exact
    yield "log Z", "" if exact.log_z is None else f"{exact.log_z:.3f}", text(samples.log_z()), text(both.log_z), ""
    alone = metrics.mean(u, correlation=correlation.of_series(u, at_most=data.n_effective))
    known = "" if exact.mean_energy is None else f"{exact.mean_energy:.3f}"
    yield "mean energy", known, text(samples.expectation(samples.u)), text(both.expectation(samples.u, u)), text(alone)
    if not model.target.topology:
        return
    atoms = np.array([internal_coordinates.backbones(target.topology)[0].phi])
    own, other = (internal_coordinates.torsions(np.asarray(part.positions), atoms)[:, 0] > 0 for part in (samples, data))
    equal = free_energy.difference(np.zeros(data.n), other, ~other)
    yield (
        "F(phi > 0) - F(phi < 0)",
        "",
        text(samples.free_energy_difference(own, ~own)),
        text(both.free_energy_difference(own, ~own, other, ~other)),
        text(equal),
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(N), default=list(N))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| model, samples, frames | | known | samples, reweighted | samples and frames (Bennett) | frames alone |")
    print("|---|---|---|---|---|---|")
    for name in options.only:
        n, frames = (max(64, int(options.scale * size)) for size in N[name])
        for line in rows(name, n, frames, seed=options.seed):
            print(f"| {name}, {n}, {frames} | " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
