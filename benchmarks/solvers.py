"""What an accurate log q costs: solvers of the flow's ODE beside each other on one model.

    python benchmarks/solvers.py [--model lj13] [-n 64] [--reference-steps 40] [--only gauss-legendre]

Draws n samples with each solver and evaluates log q again where the solver has put them, with many fixed Runge-Kutta steps. Printed are
evaluations of the field, processor time per sample, the error of log q, and the reverse ESS that comes out (of the same latent
configurations, so that differences come from the solver). Compilation is not counted.
"""

import argparse
import dataclasses
import time
from typing import Any

SOLVERS: list[tuple[Any, dict[str, Any]]] = (
    [("gauss-legendre", {"nodes": m}) for m in (8, 12, 16, 24, 32)]
    + [("gauss-legendre", {"nodes": m, "grading": 1.5}) for m in (12, 16, 24)]
    + [("rk4", {"steps": m}) for m in (10, 20)]
    + [("dopri5", {"rtol": r, "atol": r}) for r in (1e-3, 1e-4, 1e-5)]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lj13")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--reference-steps", type=int, default=40)
    parser.add_argument("--only", help="solvers of this name alone")
    arguments = parser.parse_args()

    from boltzflow import runtime

    runtime.configure()
    import jax
    import numpy as np

    from boltzflow.analysis import weights
    from boltzflow.config import RK4, Solver
    from boltzflow.models.storage import load_model
    from boltzflow.sampling.generate import draw, log_density, sample_keys

    model = load_model(arguments.model)
    flow = model.flow
    keys = sample_keys(0, arguments.n, seed=0)
    fine = dataclasses.replace(flow, solver=RK4(arguments.reference_steps))
    print(f"{arguments.model}, n = {arguments.n}, reference: {fine.solver}")
    print(f"{'solver':36}{'NFE':>7}{'CPU ms':>9}{'rms':>9}{'median':>9}{'99 %':>9}{'max':>9}{'ESS %':>8}{'failed':>8}")
    for method, options in SOLVERS:
        if arguments.only not in (None, method):
            continue
        solver = Solver.named(method)(**options)
        chosen = dataclasses.replace(flow, solver=solver)
        jax.block_until_ready(draw(chosen, keys))
        began = time.process_time()
        solution = jax.tree.map(np.asarray, draw(chosen, keys))
        spent = (time.process_time() - began) / arguments.n * 1e3
        good = solution.status == 0
        error = np.abs(solution.log_q - log_density(fine, solution.positions).log_q)[good]
        energies = np.asarray(model.target.energies(solution.positions), np.float64)
        log_weight = np.where(good, -energies - np.asarray(solution.log_q, np.float64), -np.inf)
        ess = 100.0 * weights.reverse_ess(log_weight).value
        figures = [np.sqrt(np.mean(error**2)), np.median(error), np.quantile(error, 0.99), error.max()]
        print(
            f"{solver!s:36}{solution.nfe.mean():7.1f}{spent:9.2f}"
            + "".join(f"{f:9.4f}" for f in figures)
            + f"{ess:8.1f}{np.sum(~good):8d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
