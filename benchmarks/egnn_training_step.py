"""One training step of the published LJ13 network (EGNN 3×32, batch 256): this package beside an eager PyTorch EGNN of the same size.

Run with `python benchmarks/egnn_training_step.py`. PyTorch is the optional extra `benchmark`; without it only our own time is printed.
`--torch-python PYTHON` runs the peer with another interpreter, for machines where both do not fit into one environment.
The two take turns, so that a drifting machine speed hits both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

BATCH, PARTICLES, DIMENSION, LAYERS, HIDDEN = 256, 13, 3, 3, 32
STEPS = 10


def torch_worker() -> None:
    """Answers each line on stdin with the seconds per step of the PyTorch network."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            silu = nn.SiLU()
            self.edge = nn.Sequential(nn.Linear(2 * HIDDEN + 2, HIDDEN), silu, nn.Linear(HIDDEN, HIDDEN), silu)
            self.gate = nn.Sequential(nn.Linear(HIDDEN, 1), nn.Sigmoid())
            self.shift = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), silu, nn.Linear(HIDDEN, 1, bias=False))
            self.node = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), silu, nn.Linear(HIDDEN, HIDDEN))

        def forward(self, h, x, edge_attribute, rows, columns):
            difference = x[rows] - x[columns]
            squared = (difference**2).sum(-1, keepdim=True)
            message = self.edge(torch.cat([h[rows], h[columns], squared, edge_attribute], -1))
            message = message * self.gate(message)
            shift = difference / ((squared + 1e-8).sqrt() + 1) * torch.tanh(self.shift(message)) * (15.0 / LAYERS)
            x = x + torch.zeros_like(x).index_add_(0, rows, shift)
            summed = torch.zeros(h.shape[0], HIDDEN).index_add_(0, rows, message)
            return h + self.node(torch.cat([h, summed], -1)), x

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Linear(2, HIDDEN)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            one = torch.cartesian_prod(torch.arange(PARTICLES), torch.arange(PARTICLES))
            one = one[one[:, 0] != one[:, 1]]
            edges = (one[None] + PARTICLES * torch.arange(BATCH)[:, None, None]).reshape(-1, 2)
            self.rows, self.columns = edges[:, 0].contiguous(), edges[:, 1].contiguous()

        def forward(self, t, x):
            flat = x.reshape(-1, DIMENSION)
            h = self.embedding(torch.stack([torch.ones(len(flat)), t.repeat_interleave(PARTICLES)], -1))
            edge_attribute = ((flat[self.rows] - flat[self.columns]) ** 2).sum(-1, keepdim=True)
            moved = flat
            for layer in self.layers:
                h, moved = layer(h, moved, edge_attribute, self.rows, self.columns)
            velocity = (moved - flat).reshape(x.shape)
            return velocity - velocity.mean(1, keepdim=True)

    torch.manual_seed(0)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    x0, x1 = (torch.randn(BATCH, PARTICLES, DIMENSION) for _ in range(2))
    t = torch.rand(BATCH)

    def step() -> None:
        optimiser.zero_grad()
        xt = (1 - t[:, None, None]) * x0 + t[:, None, None] * x1
        loss = ((network(t, xt) - (x1 - x0)) ** 2).sum((1, 2)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()

    _serve(step)


def own_worker(devices: int) -> None:
    """Answers each line on stdin with the seconds per step of this package, batch preparation and pairing excluded as for the peer."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from boltzflow.config import FlowConfig, TrainingConfig
    from boltzflow.flows.build import build_field
    from boltzflow.objectives.flow_matching import Batch, FlowMatching
    from boltzflow.training.sharding import data_mesh
    from boltzflow.training.state import initial_state, make_step, place_batch

    config = TrainingConfig(batch_size=BATCH, devices=devices)
    field = build_field(FlowConfig(layers=LAYERS, hidden=HIDDEN), (0,) * PARTICLES, 1.0, key=jax.random.key(0))
    mesh = data_mesh(devices, BATCH, config.microbatch)
    advance = make_step(field, FlowMatching(), config, mesh)
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = [jax.device_put(initial_state(field, config), replicated)]
    rng = np.random.default_rng(0)
    x0, x1, noise = rng.standard_normal((3, BATCH, PARTICLES, DIMENSION)).astype(np.float32)
    batch = Batch(x0, x1, rng.random(BATCH).astype(np.float32), noise)

    def step() -> None:
        state[0], metrics = advance(state[0], place_batch(batch, mesh))
        float(metrics.loss)

    _serve(step)


def _serve(step) -> None:
    for _ in range(3):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        print((time.perf_counter() - began) / STEPS, flush=True)


class Worker:
    """A process that times steps when it is asked to."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.works = self._process.stdout.readline().strip() == "ready"
        self.seconds: list[float] = []

    def measure(self) -> None:
        """Adds one measurement."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.seconds.append(float(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each, in turn")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        torch_worker() if arguments.worker == "torch" else own_worker(int(arguments.worker))
        return
    workers = {
        "boltzflow, 1 device": Worker(sys.executable, __file__, "--worker", "1"),
        "boltzflow, 2 devices": Worker(sys.executable, __file__, "--worker", "2"),
        "PyTorch, eager": Worker(arguments.torch_python, __file__, "--worker", "torch"),
    }
    workers = {name: worker for name, worker in workers.items() if worker.works}
    for _ in range(arguments.rounds):
        for worker in workers.values():
            worker.measure()
    result = {name: statistics.median(worker.seconds) for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    if arguments.json:
        print(json.dumps(result))
        return
    for name, seconds in result.items():
        spread = workers[name].seconds
        print(f"{name:22s} {1e3 * seconds:7.1f} ms a step (median of {len(spread)}; {1e3 * min(spread):.1f} to {1e3 * max(spread):.1f})")
    peer = result.get("PyTorch, eager")
    if peer is None:
        print("PyTorch is not installed; install the extra `benchmark` or pass --torch-python.")
    else:
        best = min(seconds for name, seconds in result.items() if name.startswith("boltzflow"))
        print(f"PyTorch / boltzflow    {peer / best:7.2f}")


if __name__ == "__main__":
    main()
