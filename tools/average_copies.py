"""Averages log q of an augmented flow's samples over its copies, so that their weights vary less.

python tools/average_copies.py MODEL SAMPLES.h5 AVERAGED.h5 -n 10000
python tools/average_copies.py MODEL SAMPLES.h5 AVERAGED.h5 --thin 0.1      # of the peptides with phi < 0 every tenth only
"""

import argparse

import numpy as np

from boltzflow import progress
from boltzflow.analysis.internal_coordinates import backbones, torsions
from boltzflow.models import load_model
from boltzflow.sampling.averaging import averaged
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.thinning import thinned


def main() -> None:
    """Reads, averages, writes and prints what is gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("out")
    parser.add_argument("-n", type=int, default=None, help="the first samples only")
    parser.add_argument("--thin", type=float, default=1.0, help="probability of keeping a sample with phi < 0; the weights know of it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the thinning")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    samples = Samples.load(arguments.samples)
    samples = samples.take(np.arange(min(samples.n, arguments.n or samples.n)))
    if arguments.thin < 1.0:
        phi = torsions(samples.positions, np.array([backbones(model.target.topology)[0].phi]))[:, 0]
        samples = thinned(samples, np.where(phi > 0, 1.0, arguments.thin), seed=arguments.seed)
    with progress.shown() as bar:
        found = averaged(samples, model.flow, model.target, progress=bar)
    found.save(arguments.out)
    print(f"n = {samples.n}")
    print(f"reverse ESS {samples.ess()} becomes {found.ess()}, log Z {samples.log_z()} becomes {found.log_z()}")


if __name__ == "__main__":
    main()
