"""Rows of the table in docs/results.md of flows that were learnt from energies, and of those from as many energies spent on frames.

    python tools/energies_table.py RUN [RUN ...] [-n 10000] [--frames 10000] [--seed 1]

Each run is judged on the same independent frames, which are made anew by the reference sampler with a seed that no run was trained on. What
these cost is no part of a row; what a run's own frames cost is.
"""

import argparse
import json
from pathlib import Path

import boltzflow as bf
from boltzflow.analysis import Estimate
from boltzflow.evaluation.figures import REFERENCE_SEED

HEADER = ("run", "energies", "training / s", "reverse ESS", "forward ESS", "E-W2 reweighted (floor)", "log Z")


def text(entry: dict | None, factor: float = 1.0) -> str:
    """A cell."""
    return "" if entry is None else " ".join(Estimate.from_dict(entry).scaled(factor).texts()).strip()


def row(folder: Path, n: int, data: bf.Dataset, *, seed: int) -> list[str]:
    """The cells of a run."""
    run = bf.open_run(folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    figures = run.model.evaluate(n, seed=seed, frames=data)
    energies = sum((card["energies"][part] or {}).get("total", 0) for part in ("reference", "training"))
    seconds = sum(value or 0.0 for value in card["seconds"].values())
    distance = (figures.get("e_w2") or {}).get("reweighted")
    floor = "" if distance is None else f" ({distance['floor']:.3g})"
    return [
        folder.name,
        f"{energies:.3g}",
        f"{seconds:.0f}",
        text(figures["ess_reverse"], 100.0) + " %",
        text(figures["ess_forward"], 100.0) + " %",
        text(distance) + floor,
        text(figures["log_z"]),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    made: dict[str, bf.Dataset] = {}
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER), flush=True)
    for folder in arguments.runs:
        target = bf.open_run(folder).target
        if target.fingerprint not in made:
            made[target.fingerprint] = bf.reference.sample(target, arguments.frames, seed=REFERENCE_SEED).dataset
        print("| " + " | ".join(row(folder, arguments.n, made[target.fingerprint], seed=arguments.seed)) + " |", flush=True)


if __name__ == "__main__":
    main()
