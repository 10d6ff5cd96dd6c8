"""Time per effective sample of a molecule's backbone torsions: the tempering sampler beside plain molecular dynamics with OpenMM.

    python benchmarks/reference_molecule.py [-n 256] [--picoseconds 2000] [--data FRAMES.h5] [--core 0]

Alanine dipeptide at 300 K. Both samplers are kept on one core, and times are CPU seconds, which other work on the machine disturbs less
than it does the clock; what comes before the first frame kept (compilation, warm-up, equilibration) is given apart and not counted.

The effective number of frames is their number divided by the integrated autocorrelation time with the mean of all chains
(`reference.diagnostics`); a time that is near one frame is bounded by the distance between frames. With --data the autocorrelation of the
tempering sampler is that of a larger set of its frames, and only seconds per sweep are measured here. The left-handed basin
(0 < φ < 120°) holds few frames, and molecular dynamics enters it rarely: its effective sample size follows from the number of entries E
of trajectories into it as E / (2 p (1 - p)), exact for jumps without memory, with the share p from the tempering sampler, and its
interval from the Poisson interval of E. Without any entry it is a bound.
"""

import argparse
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

BASIN = 2.0 * np.pi / 3.0
Series = dict[str, np.ndarray]


def observables(positions: np.ndarray, chains: int, target: Any) -> Series:
    """(chains, draws) of each observable, from frames chain by chain; draws that not all chains have are left out."""
    from boltzflow.analysis import internal_coordinates

    residue = internal_coordinates.backbones(target.topology)[0]
    draws = len(positions) // chains
    longer = len(positions) - chains * draws
    starts = np.arange(chains) * draws + np.minimum(np.arange(chains), longer)
    torsions = internal_coordinates.torsions(positions, np.array([residue.phi, residue.psi]))
    phi, psi = torsions[starts[:, None] + np.arange(draws)].transpose(2, 0, 1)
    left = (phi > 0) & (phi < BASIN)
    return {"cos φ": np.cos(phi), "sin φ": np.sin(phi), "cos ψ": np.cos(psi), "sin ψ": np.sin(psi), "left-handed": left.astype(float)}


def cpu_seconds() -> float:
    """Seconds of this process, with all its threads, and of the processes that it has ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def tempering(target: Any, n: int, seed: int) -> tuple[Any, float, float]:
    """The result, and the CPU seconds before and after the first frame that is kept."""
    from boltzflow import reference

    marks: list[float] = []
    began = cpu_seconds()

    def note(_: float, message: str) -> None:
        if message.startswith("sampling") and not marks:
            marks.append(cpu_seconds())

    result = reference.sample(target, n, seed=seed, progress=note)
    return result, marks[0] - began, cpu_seconds() - marks[0]


def dynamics(target: Any, picoseconds: float, seed: int) -> tuple[Any, float, float]:
    """The same of molecular dynamics; its processes are timed as a whole, and the equilibration has its share of that."""
    from boltzflow import reference

    began = cpu_seconds()
    result = reference.molecular_dynamics(target, round(2 * picoseconds), seed=seed, chains=2, interval=0.5)
    total = cpu_seconds() - began
    found = result.diagnostics
    discarded = found["chains"] * found["equilibration"]
    start = total * discarded / (discarded + found["sampled_time"])
    return result, start, total - start


def entries(left: np.ndarray) -> tuple[int, float, float]:
    """How often chains enter the basin, with the 95 % interval of a Poisson number."""
    from scipy.stats import chi2

    count = int(np.sum((left[:, 1:] > 0) & (left[:, :-1] == 0)))
    return count, float(chi2.ppf(0.025, 2 * count) / 2) if count else 0.0, float(chi2.ppf(0.975, 2 * count + 2) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=256, help="frames of the tempering sampler")
    parser.add_argument("--picoseconds", type=float, default=2000.0, help="molecular dynamics, both chains together")
    parser.add_argument("--data", type=Path, help="a larger set of the tempering sampler, for its autocorrelation")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Before JAX starts its threads.
    os.sched_setaffinity(0, {args.core})

    from boltzflow import datasets, targets
    from boltzflow.reference.diagnostics import autocorrelation_time

    target = targets.get("alanine-dipeptide")
    result, start, seconds = tempering(target, args.n, args.seed)
    found, data = result.diagnostics, result.dataset
    per_sweep = seconds / (found["thin"] * args.n)
    about = datasets.load(args.data, target) if args.data else data
    thin, chains = int(about.provenance["thin"]), int(about.provenance["chains"])
    tempered = observables(about.positions, chains, target)
    share = float(tempered["left-handed"].mean())
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    print(f"tempering: {args.n} frames {found['thin']} sweeps apart, {start:.0f} s of start and {seconds:.1f} s of sampling,")
    print(f"  autocorrelation from {about.n} frames {thin} sweeps apart, of which {100 * share:.2f} % are left-handed")

    simulated, start, simulation = dynamics(target, args.picoseconds, args.seed)
    run = simulated.diagnostics
    dynamic = observables(simulated.dataset.positions, run["chains"], target)
    print(f"molecular dynamics: {run['sampled_time']:.0f} ps in {simulation:.1f} s, {start:.1f} s of equilibration")
    print(f"mean energy: {found['mean_energy']:.2f} ± {found['mean_energy_error']:.2f}, dynamics", end=" ")
    print(f"{run['mean_energy']:.2f} ± {run['mean_energy_error']:.2f}")

    print("\n| observable | tempering: sweeps | s per effective sample | dynamics: ps | s per effective sample |\n|---|---|---|---|---|")
    for name, series in tempered.items():
        sweeps = autocorrelation_time(series) * thin
        row = f"| {name} | {sweeps:.0f} | {sweeps * per_sweep:.3g} |"
        if name != "left-handed":
            time = autocorrelation_time(dynamic[name]) * run["interval"]
            print(f"{row} {time:.2g} | {time / run['sampled_time'] * simulation:.3g} |")
            continue
        if share == 0.0:
            print(f"{row} | unknown: the tempering sampler has no frame there; give more of them |")
            continue
        count, low, high = entries(dynamic[name])
        effective = [number / (2 * share * (1 - share)) for number in (count, low, high)]
        least = f"{simulation / effective[2]:.3g}"
        if count:
            most = f"{simulation / effective[1]:.3g}"
            print(f"{row} {run['sampled_time'] / effective[0]:.3g} | {simulation / effective[0]:.3g} [{least}, {most}] |")
        else:
            print(f"{row} | more than {least} (95 %) |")
        print(f"\n{count} entries into the left-handed basin in {run['sampled_time']:.0f} ps of dynamics.")


if __name__ == "__main__":
    main()
