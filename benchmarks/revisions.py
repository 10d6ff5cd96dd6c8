"""Two revisions of this repository side by side: training steps, sampling and compile times in turns, and log q of the shipped models.

Run as: python benchmarks/revisions.py OTHER [--names dw4 lj13 ...] [--rounds 3] [--log-q]

OTHER is a checkout of the other revision (`git worktree add OTHER REVISION`); each side runs in processes of its own, with the packages of
this environment. Times are the medians over the rounds, which alternate; both orders occur.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]
NAMES = ("dw4", "lj13", "lj13-eacf", "alanine-dipeptide")

# What each side runs. It must be true of both revisions, so it speaks of nothing that has been renamed between them.
SAMPLE = """
import json, sys, time
import jax
import boltzflow as bf
from boltzflow.sampling.generate import draw, sample_keys
model = bf.load_model(sys.argv[1])
chunk, total = model.flow.chunk_size, int(sys.argv[2])
def keys(first, seed):
    try:
        return sample_keys(first, chunk, seed=seed)
    except TypeError:  # the seed came first before
        return sample_keys(seed, first, chunk)
def once(seed):
    began = time.perf_counter()
    for first in range(0, total, chunk):
        jax.block_until_ready(draw(model.flow, keys(first, seed)))
    return time.perf_counter() - began
began = time.perf_counter()
jax.block_until_ready(draw(model.flow, keys(0, 0)))
first = time.perf_counter() - began
seconds = min(once(1), once(2))
drawn = -(-total // chunk) * chunk
print(json.dumps({"sampling per 1 000, s": 1000 * seconds / drawn, "compile of sampling, s": first - seconds * chunk / drawn}))
"""

LOG_Q = """
import sys
import numpy as np
import boltzflow as bf
from boltzflow.sampling.generate import generate, log_density
model, file = bf.load_model(sys.argv[1]), sys.argv[2]
try:
    frames = np.load(file)
except FileNotFoundError:
    frames = generate(model.flow, model.target, 100, seed=11).positions
    np.save(file, frames)
print(np.asarray(log_density(model.flow, frames, seed=0).log_q, float).tolist())
"""


def run(root: Path, code: str, *words: object) -> str:
    """The last line that a program prints under the source of a revision."""
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment["BOLTZFLOW_CACHE"] = tempfile.mkdtemp()
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return "".join(done.stdout.strip().splitlines()[-1:])


def step(root: Path, preset: str, frames: Path, steps: int) -> dict[str, float]:
    """Time of a training step, the median between two lines of the log, and the time until the first."""
    staged = (root / "src" / "boltzflow" / "training" / "stages.py").is_file()
    words = [f"stages.0.steps={steps}", "run.log_every=5", "run.checkpoint_every=100000"]
    words += ["stages.1=null"] if staged and preset != "lj13-eacf" else []
    if not staged:
        words = [f"training.steps={steps}", "training.log_every=5", "training.checkpoint_every=100000", "refinement.steps=0"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        code = "import sys\nfrom boltzflow.cli import main\nsys.exit(main(sys.argv[1:]))"
        run(root, code, "train", preset, "-o", out, "--set", f"data.path={frames}", "data.validation=50", *words)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    marks = [(line["step"], line["seconds"]) for line in lines if "seconds" in line]
    times = [(later[1] - former[1]) / (later[0] - former[0]) for former, later in zip(marks, marks[1:], strict=False)]
    usual = statistics.median(times[1:])
    return {"training step, ms": 1000 * usual, "compile of training, s": marks[0][1] - usual * marks[0][0]}


def main() -> None:
    """Prints a table, or the largest differences of log q."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--names", nargs="+", default=list(NAMES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--frames", type=Path, help="positions to train on (.npy); else 2 000 are made first")
    parser.add_argument("--log-q", action="store_true", help="compare log q on 100 frames instead")
    arguments = parser.parse_args()
    sides = {"before": arguments.other.resolve(), "after": HERE}
    if arguments.log_q:
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as folder:
                found = [json.loads(run(root, LOG_Q, name, Path(folder) / "frames.npy")) for root in sides.values()]
            print(name, "largest difference of log q:", max(abs(a - b) for a, b in zip(*found, strict=True)), flush=True)
        return
    print("| model | | before | after | ratio |\n|---|---|---|---|---|")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            # Positions alone: a target may have got another fingerprint in between.
            frames = Path(folder) / "frames.npy"
            words = (
                "import boltzflow as bf, numpy as np; "
                f"np.save({str(frames)!r}, bf.reference.sample(bf.load_model({name!r}).target, 2000, seed=3).dataset.positions)"
            )
            if arguments.frames is None:
                run(sides["after"], words)
            else:
                frames = arguments.frames.absolute()
            times: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
            for number in range(arguments.rounds):
                for side in list(sides)[:: 1 if number % 2 else -1]:
                    measured = step(sides[side], name, frames, arguments.steps) | json.loads(
                        run(sides[side], SAMPLE, name, arguments.samples)
                    )
                    for what, value in measured.items():
                        times[side].setdefault(what, []).append(value)
            for what in times["after"]:
                before, after = (statistics.median(times[side][what]) for side in ("before", "after"))
                print(f"| {name} | {what} | {before:.4g} | {after:.4g} | {after / before:.3f} |", flush=True)


if __name__ == "__main__":
    main()
