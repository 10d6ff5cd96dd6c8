"""The published LJ13 network (EGNN 3×32, batch 256) in this package and in eager PyTorch, side by side.

    python benchmarks/peers.py [--jobs step] [--torch-python PYTHON] [--rounds 7] [--json]

Three jobs are timed: a training step on given pairs, a training step with the optimal-transport pairing of the batch, and samples with
exact log q by an adaptive Runge-Kutta solver. The peer is an EGNN of the same size in PyTorch, paired by torchcfm and integrated by
torchdiffeq with the brute-force divergence (one backward pass for each coordinate), as published codes do. Here the divergence is the
default one, exact too. The two take turns, so that a drifting machine speed hits both.

PyTorch and the peers are the optional extra `benchmark`; without them only our own times are printed. `--torch-python PYTHON` runs them
with another interpreter, for machines where both do not fit into one environment.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

BATCH, PARTICLES, DIMENSION, LAYERS, HIDDEN = 256, 13, 3, 3, 32
TOLERANCE = 1e-4
SAMPLES = 64
JOBS = {"step": "training step", "paired step": "training step with OT pairing", "samples": f"{SAMPLES} samples with exact log q"}
REPEATS = {"step": 10, "paired step": 10, "samples": 1}


def torch_worker() -> None:
    """Answers each line on stdin, the name of a job, with its seconds in PyTorch."""
    import torch
    from torch import nn
    from torchcfm.optimal_transport import OTPlanSampler
    from torchdiffeq import odeint

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
            self.one = one[one[:, 0] != one[:, 1]]
            self.edges: dict[int, torch.Tensor] = {}

        def _edges(self, batch: int):
            if batch not in self.edges:
                edges = (self.one[None] + PARTICLES * torch.arange(batch)[:, None, None]).reshape(-1, 2)
                self.edges[batch] = edges.T.contiguous()
            return self.edges[batch]

        def forward(self, t, x):
            rows, columns = self._edges(len(x))
            flat = x.reshape(-1, DIMENSION)
            time = t.expand(len(x)) if t.ndim == 0 else t
            h = self.embedding(torch.stack([torch.ones(len(flat)), time.repeat_interleave(PARTICLES)], -1))
            edge_attribute = ((flat[rows] - flat[columns]) ** 2).sum(-1, keepdim=True)
            moved = flat
            for layer in self.layers:
                h, moved = layer(h, moved, edge_attribute, rows, columns)
            velocity = (moved - flat).reshape(x.shape)
            return velocity - velocity.mean(1, keepdim=True)

    torch.manual_seed(0)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    plan = OTPlanSampler(method="exact")
    x0, x1 = (torch.randn(BATCH, PARTICLES, DIMENSION) for _ in range(2))
    t = torch.rand(BATCH)

    def advance(x0, x1) -> None:
        optimiser.zero_grad()
        xt = (1 - t[:, None, None]) * x0 + t[:, None, None] * x1
        loss = ((network(t, xt) - (x1 - x0)) ** 2).sum((1, 2)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()

    def paired() -> None:
        a, b = plan.sample_plan(x0.reshape(BATCH, -1), x1.reshape(BATCH, -1))
        advance(a.reshape(x0.shape), b.reshape(x1.shape))

    def rates(time, state):
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            v = network(time, x)
            flat = v.reshape(len(x), -1)
            divergence = torch.zeros(len(x))
            for i in range(flat.shape[1]):
                divergence += torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].reshape(len(x), -1)[:, i]
        return v.detach(), divergence

    def samples() -> None:
        start = (torch.randn(SAMPLES, PARTICLES, DIMENSION), torch.zeros(SAMPLES))
        odeint(rates, start, torch.tensor([0.0, 1.0]), method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)

    _serve({"step": lambda: advance(x0, x1), "paired step": paired, "samples": samples})


def own_worker(devices: int) -> None:
    """Answers each line on stdin, the name of a job, with its seconds in this package."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from boltzflow.config import ECNF, EGNN, Dopri5, Stage
    from boltzflow.flows.build import build_flow
    from boltzflow.objectives.base import Setting
    from boltzflow.objectives.flow_matching import FlowMatching, Pairs
    from boltzflow.objectives.pairing import pair
    from boltzflow.sampling.generate import draw, sample_keys
    from boltzflow.targets import get
    from boltzflow.training.sharding import data_mesh
    from boltzflow.training.state import initial_state, make_step, place_batch, place_state

    stage, target = Stage(batch_size=BATCH), get("lj13")
    options = ECNF(EGNN(layers=LAYERS, hidden=HIDDEN), Dopri5(rtol=TOLERANCE, atol=TOLERANCE))
    flow = build_flow(options, target, 1.0, key=jax.random.key(0))
    mesh = data_mesh(devices, BATCH, stage.microbatch)
    advance = make_step(flow.network, FlowMatching().bound(Setting(flow, target, BATCH)), stage, mesh)
    state = [place_state(initial_state(flow.network, stage), mesh)]
    rng = np.random.default_rng(0)
    x0, x1, noise = rng.standard_normal((3, BATCH, PARTICLES, DIMENSION)).astype(np.float32)
    t = rng.random(BATCH).astype(np.float32)

    def step() -> None:
        state[0], metrics = advance(state[0], place_batch(Pairs(x0, x1, t, noise), mesh))
        float(metrics.loss)

    def paired() -> None:
        a, b, _ = pair(x0, x1, pairing="optimal-transport", full_cost=False, classes=np.zeros(PARTICLES, int), reflections=True, threads=1)
        state[0], metrics = advance(state[0], place_batch(Pairs(a, b, t, noise), mesh))
        float(metrics.loss)

    def samples() -> None:
        jax.block_until_ready(draw(flow, sample_keys(0, SAMPLES, seed=0)))

    _serve({"step": step, "paired step": paired, "samples": samples})


def _serve(jobs) -> None:
    for job in jobs.values():
        for _ in range(2):
            job()
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        began = time.perf_counter()
        for _ in range(REPEATS[name]):
            jobs[name]()
        print((time.perf_counter() - began) / REPEATS[name], flush=True)


class Worker:
    """A process that times jobs when it is asked to."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.works = self._process.stdout.readline().strip() == "ready"
        self.seconds: dict[str, list[float]] = {job: [] for job in JOBS}

    def measure(self, job: str) -> None:
        """Adds one measurement."""
        self._process.stdin.write(f"{job}\n")
        self._process.stdin.flush()
        self.seconds[job].append(float(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Prints a table, one line per job and code, and the ratio of the peer's time to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each, in turn")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), help="what to time")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch, torchcfm and torchdiffeq")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        torch_worker() if arguments.worker == "torch" else own_worker(int(arguments.worker))
        return
    workers = {
        "boltzflow, 1 device": Worker(sys.executable, __file__, "--worker", "1"),
        "boltzflow, 2 devices": Worker(sys.executable, __file__, "--worker", "2"),
        "PyTorch": Worker(arguments.torch_python, __file__, "--worker", "torch"),
    }
    workers = {name: worker for name, worker in workers.items() if worker.works}
    for _ in range(arguments.rounds):
        for job in arguments.jobs:
            for worker in workers.values():
                worker.measure(job)
    for worker in workers.values():
        worker.close()
    medians = {job: {name: statistics.median(worker.seconds[job]) for name, worker in workers.items()} for job in arguments.jobs}
    if arguments.json:
        print(json.dumps(medians))
        return
    for job in arguments.jobs:
        print(f"{JOBS[job]} (median of {arguments.rounds}, least to most)")
        for name, worker in workers.items():
            seconds = worker.seconds[job]
            print(f"  {name:22s} {1e3 * medians[job][name]:9.1f} ms  ({1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f})")
        if "PyTorch" in workers:
            best = min(seconds for name, seconds in medians[job].items() if name != "PyTorch")
            print(f"  PyTorch / boltzflow    {medians[job]['PyTorch'] / best:9.2f}")
    if "PyTorch" not in workers:
        print("PyTorch, torchcfm and torchdiffeq are not installed; install the extra `benchmark` or pass --torch-python.")


if __name__ == "__main__":
    main()
