"""Sampling with exact log q: seconds per 1 000 samples, compile time and memory, over the number of configurations per compiled call.

    python benchmarks/sampling.py [--model lj13] [-n 512] [--chunks 4 8 16 32 64]

Each size runs in a process of its own, because memory is that of the process. The program is compiled anew, not taken from the disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boltzflow.flows import AbstractFlow
    from boltzflow.targets import Target


def measure(flow: "AbstractFlow", target: "Target", n: int, chunk: int) -> dict[str, float]:
    """Compile time, seconds per 1 000 samples and peak memory for one number of configurations per call; 0 takes the default."""
    import jax

    from boltzflow.sampling.generate import draw, generate, sample_keys

    chunk = chunk or flow.chunk_size
    times = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(draw(flow, sample_keys(0, chunk, seed=0)))
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    generate(flow, target, n, seed=1, chunk=chunk)
    seconds = time.perf_counter() - began
    return {"chunk": chunk, "compile": times[0] - times[1], "per_1000": 1e3 * seconds / n, "memory": peak_memory()}


def peak_memory() -> float:
    """Memory of the process at its peak, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints one line per number of configurations per call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lj13")
    parser.add_argument("-n", type=int, default=512)
    parser.add_argument("--chunks", type=int, nargs="+", default=[0, 4, 8, 16, 32, 64], help="0: the default")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        from boltzflow.models.storage import load_model

        loaded = load_model(arguments.model)
        print(json.dumps(measure(loaded.flow, loaded.target, arguments.n, arguments.chunks[0])))
        return
    print(f"{arguments.model}, n = {arguments.n}")
    print(f"{'chunk':>8s}{'compile s':>12s}{'s per 1 000':>13s}{'peak MB':>10s}")
    for chunk in arguments.chunks:
        command = [sys.executable, __file__, "--worker", "--model", arguments.model, "-n", str(arguments.n), "--chunks", str(chunk)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        name = f"{found['chunk']} *" if chunk == 0 else str(chunk)
        print(f"{name:>8s}{found['compile']:12.1f}{found['per_1000']:13.2f}{found['memory']:10.0f}", flush=True)


if __name__ == "__main__":
    main()
