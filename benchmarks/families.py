"""What a sample with exact log q costs: shipped coupling flows beside continuous flows with sparse and with brute-force divergence.

    python benchmarks/families.py [--targets dw4 lj13] [-n 512]

Seconds per 1 000 samples, compilation apart; all cores. Each figure is the faster of two runs, one after the other.
"""

import argparse
import dataclasses
import time


def main() -> None:
    """Prints a line for each target and flow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["dw4", "lj13"])
    parser.add_argument("-n", type=int, default=512)
    arguments = parser.parse_args()

    from boltzflow.config import BruteForce
    from boltzflow.flows import AbstractFlow, ContinuousFlow
    from boltzflow.models.storage import load_model
    from boltzflow.sampling.generate import generate
    from boltzflow.targets import Target

    def seconds(flow: AbstractFlow, target: Target, n: int) -> float:
        """Seconds per 1 000 samples, once the program is compiled."""
        generate(flow, target, flow.chunk_size, seed=0)
        times = []
        for seed in (1, 2):
            began = time.perf_counter()
            generate(flow, target, n, seed=seed, chunk=flow.chunk_size)
            times.append(time.perf_counter() - began)
        return 1000.0 * min(times) / n

    print(f"{'target':8s}{'flow':32s}{'s per 1 000':>12s}{'beside E-ACF':>14s}")
    for name in arguments.targets:
        coupling, continuous = load_model(f"{name}-eacf"), load_model(name)
        flow = continuous.flow
        assert isinstance(flow, ContinuousFlow)
        brute = dataclasses.replace(flow, solver=dataclasses.replace(flow.solver, divergence=BruteForce()))
        # The coupling flow takes so little time that more samples are needed to tell it.
        own = seconds(coupling.flow, coupling.target, 8 * arguments.n)
        rows = (
            ("E-ACF", own),
            ("E-CNF, sparse divergence", seconds(flow, continuous.target, arguments.n)),
            ("E-CNF, brute-force divergence", seconds(brute, continuous.target, max(arguments.n // 4, 1))),
        )
        for label, taken in rows:
            print(f"{name:8s}{label:32s}{taken:12.2f}{taken / own:14.1f}", flush=True)


if __name__ == "__main__":
    main()
