"""The augmented coupling flow at its published LJ13 size: compile time, training step and sampling.

    python benchmarks/coupling.py [--projections spherical cartesian vector none] [--blocks 12] [--batch 32] [--microbatch 16] [-n 500]

Printed are parameters, seconds to compile the training step, seconds a step (median; the batch is shared by all cores), seconds to compile
sampling and seconds for n samples with their log q. Parameters are fresh, which changes no time.
"""

import argparse
import os
import statistics
import tempfile
import time


def main() -> None:
    """Prints one line per projection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projections", nargs="+", default=["spherical", "cartesian", "vector", "none"])
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--microbatch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("-n", type=int, default=500)
    arguments = parser.parse_args()

    # Compile times are measured: programs kept from an earlier run would hide them.
    os.environ["BOLTZFLOW_CACHE"] = tempfile.mkdtemp()
    from boltzflow import runtime

    devices = len(os.sched_getaffinity(0))
    runtime.configure(devices=devices)
    import equinox as eqx
    import jax
    import numpy as np

    from boltzflow.config import EACF, Adam, Projection, Stage
    from boltzflow.flows.augmented import AugmentedCouplingFlow
    from boltzflow.flows.build import build_flow
    from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
    from boltzflow.objectives.base import Setting
    from boltzflow.objectives.flow_matching import centred_normal
    from boltzflow.sampling.generate import draw, generate, sample_keys
    from boltzflow.targets import lennard_jones
    from boltzflow.training.sharding import data_mesh
    from boltzflow.training.state import initial_state, make_step, place_batch, place_state

    target = lennard_jones(13)
    frames = centred_normal(np.random.default_rng(0), (1000, 13, 3))
    print(f"LJ13, {arguments.blocks} blocks, batch {arguments.batch}, {devices} devices")
    print(f"{'projection':12s}{'parameters':>12s}{'compile s':>11s}{'step s':>9s}{'compile s':>11s}{f'{arguments.n} samples s':>15s}")
    for projection in arguments.projections:
        sizes = {name: getattr(arguments, name) for name in ("blocks", "layers", "features")}
        seen = Projection.named(projection)(**({} if projection == "none" else {"width": arguments.width}))
        flow = build_flow(EACF(seen, noise=0.1, **sizes), target, 1.0, key=jax.random.key(0))
        assert isinstance(flow, AugmentedCouplingFlow)
        options = Stage(optimiser=Adam(clip_median=2.0, skip_median=10.0), batch_size=arguments.batch, microbatch=arguments.microbatch)
        mesh = data_mesh(devices, arguments.batch, arguments.microbatch)
        objective = AugmentedLikelihood().bound(Setting(flow, target, arguments.batch))
        step = make_step(flow.network, objective, options, mesh)
        state = place_state(initial_state(flow.network, options), mesh)
        times = []
        for number in range(arguments.steps + 1):
            batch = place_batch(objective.propose((), None, frames, step=number).batch, mesh)
            began = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics.loss)
            times.append(time.perf_counter() - began)
        usual = statistics.median(times[1:])
        keys = sample_keys(0, flow.chunk_size, seed=0)
        drawn = []
        for _ in range(2):
            began = time.perf_counter()
            jax.block_until_ready(draw(flow, keys))
            drawn.append(time.perf_counter() - began)
        generate(flow, target, flow.chunk_size, seed=0)
        began = time.perf_counter()
        generate(flow, target, arguments.n, seed=1)
        spent = time.perf_counter() - began
        count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(flow.network, eqx.is_inexact_array)))
        print(
            f"{projection:12s}{count:12d}{times[0] - usual:11.1f}{usual:9.3f}{drawn[0] - drawn[1]:11.1f}{spent:15.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
