"""The heaviest samples of a continuous flow: what they weigh, and what they would weigh with a finer solver.

python tools/heaviest_samples.py MODEL SAMPLES.h5 -n 20 --nodes 48
"""

import argparse
import dataclasses

import numpy as np

from boltzflow.analysis import weights
from boltzflow.models import load_model
from boltzflow.sampling.enantiomers import log_images
from boltzflow.sampling.generate import log_density
from boltzflow.sampling.samples import Samples


def main() -> None:
    """Reads, evaluates again and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("-n", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=48)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    flow = model.flow
    flow = dataclasses.replace(flow, solver=dataclasses.replace(flow.solver, nodes=arguments.nodes))
    samples = Samples.load(arguments.samples)
    log_w = np.asarray(samples.log_weight)
    order = np.argsort(-log_w)
    heaviest = order[: arguments.n]
    mean = np.log(np.mean(np.exp(log_w - log_w.max()))) + log_w.max()
    share = np.exp(log_w[heaviest] - mean).sum() / samples.n
    print(f"{arguments.n} of {samples.n} samples hold {100 * share:.1f} % of the weight")
    print(f"reverse ESS {samples.ess()}, without them {weights.reverse_ess(log_w[order[arguments.n :]])}")
    finer = np.asarray(log_density(flow, samples.positions[heaviest]).log_q, np.float64) + log_images(flow, model.target)
    change = np.asarray(samples.log_q)[heaviest] - finer
    print(f"{'energy':>8}{'weight over mean':>18}{'with ' + str(arguments.nodes) + ' nodes':>16}")
    for u, w, c in zip(samples.u[heaviest], log_w[heaviest] - mean, change, strict=True):
        print(f"{u:8.1f}{np.exp(w):18.1f}{np.exp(w + c):16.1f}")


if __name__ == "__main__":
    main()
