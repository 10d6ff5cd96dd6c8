"""How well samples of a flow reproduce the torsions of reference frames: Ramachandran divergence and F(phi > 0) - F(phi < 0).

    python tools/torsions_of_samples.py alanine-dipeptide FRAMES.h5 SAMPLES.h5 ...

The divergence over 64×64 bins has a floor from counting alone, so that of as many reference frames is printed beside it.
"""

import argparse

import numpy as np

from boltzflow import datasets, targets
from boltzflow.analysis import Estimate, free_energy, ramachandran
from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.sampling.samples import Samples


def main() -> None:
    """Prints the figures of each file of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("frames")
    parser.add_argument("samples", nargs="+")
    parser.add_argument("--bins", type=int, default=ramachandran.BINS)
    arguments = parser.parse_args()
    target = targets.get(arguments.target)
    residue = backbones(target.topology)[0]
    pair = np.array([residue.phi, residue.psi])
    data = torsions(datasets.load(arguments.frames, target).positions, pair)
    # Chains come one after the other, so that every second block is independent of the rest.
    first, second = data[: len(data) // 2], data[len(data) // 2 :]

    def divergence(of: np.ndarray, given: np.ndarray, log_w: np.ndarray | None = None) -> Estimate:
        return ramachandran.divergence(*of.T, *given.T, log_w=log_w, bins=arguments.bins)

    print("frames:", free_energy.difference(np.zeros(len(data)), data[:, 0] > 0, data[:, 0] <= 0, blocks=64))
    rng = np.random.default_rng(0)
    for name in arguments.samples:
        samples = Samples.load(name)
        angles, log_w = torsions(samples.positions, pair), np.asarray(samples.log_weight, np.float64)
        fewer = second[rng.permutation(len(second))[: samples.n]]
        print(f"{name}: n = {samples.n}, reverse ESS {samples.ess()}")
        print(f"  divergence before reweighting {divergence(data, angles)}")
        print(f"  divergence after reweighting {divergence(data, angles, log_w)}")
        print(f"  floor: {len(fewer)} frames of one half from the other half {divergence(first, fewer)}")
        positive = angles[:, 0] > 0
        print(f"  F(phi > 0) - F(phi < 0) before {free_energy.difference(np.zeros(samples.n), positive, ~positive)}")
        print(f"  F(phi > 0) - F(phi < 0) after {free_energy.difference(log_w, positive, ~positive)}")


if __name__ == "__main__":
    main()
