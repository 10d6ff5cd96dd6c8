"""How training and sampling grow with the number of particles: time per configuration, compile time and memory.

    python benchmarks/scaling.py [--particles 4 13 55 128] [--batches 32 256] [--devices 1]

Fresh two-interaction networks of width 64 in 3-D, as in the presets lj13 and lj55. Each line runs in a process of its own, because
memory is that of the process, and compiles anew. A training step has the batch in microbatches of the size that sampling takes; sampling
is that of the presets' solver (gauss-legendre, 12 nodes) with exact log q, chunk by chunk on all cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sampling import measure, peak_memory

if TYPE_CHECKING:
    from boltzflow.flows import ContinuousFlow
    from boltzflow.targets import Target

STEPS = 5
SAMPLES = {4: 2048, 13: 256, 55: 16, 128: 4}


def build(particles: int) -> "tuple[Target, ContinuousFlow]":
    """A target, and a flow with fresh parameters."""
    import jax

    from boltzflow.config import ECNF, GaussLegendre, TwoInteraction
    from boltzflow.flows.build import build_flow
    from boltzflow.targets import lennard_jones

    target = lennard_jones(particles)
    network = TwoInteraction(depth=2, hidden=64, radial=32, channels=16, softening=0.05)
    return target, build_flow(ECNF(network, GaussLegendre(12)), target, 1.0, key=jax.random.key(0))


def training(particles: int, batch: int, devices: int) -> dict[str, float]:
    """Milliseconds of a step and of its pairing for each pair, without the first step, which compiles."""
    import numpy as np

    from boltzflow.config import Stage
    from boltzflow.objectives.base import Setting
    from boltzflow.objectives.flow_matching import FlowMatching, centred_normal
    from boltzflow.training.sharding import data_mesh
    from boltzflow.training.state import initial_state, make_step, place_batch, place_state

    target, flow = build(particles)
    microbatch = min(flow.chunk_size, batch // devices)
    stage = Stage(batch_size=batch, microbatch=microbatch)
    mesh = data_mesh(devices, batch, microbatch)
    objective = FlowMatching().bound(Setting(flow, target, batch))
    step = make_step(flow.network, objective, stage, mesh)
    state = place_state(initial_state(flow.network, stage), mesh)
    frames = centred_normal(np.random.default_rng(0), (1000, particles, 3))
    pairing, stepping = [], []
    for number in range(STEPS + 1):
        began = time.perf_counter()
        pairs = objective.propose((), None, frames, step=number).batch
        pairing.append(time.perf_counter() - began)
        began = time.perf_counter()
        state, metrics = step(state, place_batch(pairs, mesh))
        float(metrics.loss)
        stepping.append(time.perf_counter() - began)
    return {
        "compile": stepping[0] - statistics.median(stepping[1:]),
        "each": 1e3 * statistics.median(stepping[1:]) / batch,
        "pairing": 1e3 * statistics.median(pairing[1:]) / batch,
        "memory": peak_memory(),
    }


def main() -> None:
    """Prints one line per job, number of particles and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, nargs="+", default=[4, 13, 55, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--devices", type=int, default=1, help="of a training step; sampling takes all cores")
    parser.add_argument("--worker", choices=["training", "sampling"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        import jax

        # Not runtime.configure: programs must not come from the disk.
        jax.config.update("jax_num_cpu_devices", options.devices)
        particles, count = options.particles[0], options.batches[0]
        if options.worker == "training":
            print(json.dumps(training(particles, count, options.devices)))
        else:
            target, flow = build(particles)
            found = measure(flow, target, count, 0)
            # Milliseconds of one sample are seconds of 1 000.
            print(json.dumps({**found, "each": found["per_1000"]}))
        return
    print(f"{'job':10s}{'N':>5s}{'batch':>7s}{'ms each':>10s}{'pairing ms':>12s}{'compile s':>11s}{'peak MB':>9s}")
    jobs = [("training", n, batch) for n in options.particles for batch in options.batches]
    jobs += [("sampling", n, factor * SAMPLES.get(n, 4)) for n in options.particles for factor in (1, 2)]
    for job, particles, count in jobs:
        words = ["--worker", job, "--particles", str(particles), "--batches", str(count), "--devices", str(options.devices)]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        pairing = f"{found['pairing']:.3f}" if "pairing" in found else "-"
        print(
            f"{job:10s}{particles:5d}{count:7d}{found['each']:10.2f}{pairing:>12s}{found['compile']:11.1f}{found['memory']:9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
