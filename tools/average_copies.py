"""Averages log q of an augmented flow's samples over its copies, so that their weights vary less.

python tools/average_copies.py MODEL SAMPLES.h5 AVERAGED.h5 -n 10000
"""

import argparse

import numpy as np

from boltzflow import progress
from boltzflow.sampling.averaging import averaged
from boltzflow.sampling.samples import Samples
from boltzflow.training import load_model


def main() -> None:
    """Reads, averages, writes and prints what is gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("out")
    parser.add_argument("-n", type=int, default=None, help="the first samples only")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    samples = Samples.load(arguments.samples)
    samples = samples.take(np.arange(min(samples.n, arguments.n or samples.n)))
    with progress.shown() as bar:
        found = averaged(samples, model.flow, model.target, progress=bar)
    found.save(arguments.out)
    print(f"reverse ESS {samples.ess()} becomes {found.ess()}, log Z {samples.log_z()} becomes {found.log_z()}")


if __name__ == "__main__":
    main()
