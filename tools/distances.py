"""The scorecard of files of samples, raw and reweighted, against reference frames, without the densities of the frames.

    python tools/distances.py MODEL FRAMES.h5 SAMPLES.h5 ... [--dynamics DYNAMICS.h5] [--most 1000] [--seed 0]

Rows of a table in docs/reweighting.md: for each file each distance with its interval and its floor. `boltzflow evaluate --samples` tells
the same and more, but asks the flow for the density of every frame, which for an augmented flow takes most of the time.
"""

import argparse
from pathlib import Path

import boltzflow as bf
from boltzflow import datasets
from boltzflow.analysis import transport
from boltzflow.evaluation import scorecard as distances

SHOWN = ("e_w2", "distance_w2", "t_w2", "tica_w2", "aligned_w2", "ramachandran_tv")


def cell(entry: dict) -> str:
    """A distance with its interval and floor."""
    if entry["value"] is None:
        return "-"
    ends = f" [{entry['low']:.3g}, {entry['high']:.3g}]" if entry["low"] is not None and entry["high"] is not None else ""
    floor = "" if entry["floor"] is None else f" ({entry['floor']:.3g})"
    return f"{entry['value']:.3g}{ends}{floor}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("frames", type=Path)
    parser.add_argument("samples", nargs="+", type=Path)
    parser.add_argument("--dynamics", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=transport.MOST, help="configurations of exact transport")
    arguments = parser.parse_args()
    target = bf.load_model(arguments.model).target
    frames = datasets.read(arguments.frames)
    dynamics = None if arguments.dynamics is None else datasets.read(arguments.dynamics)
    print("| samples | n | | " + " | ".join(SHOWN) + " |")
    print("|---" * (3 + len(SHOWN)) + "|", flush=True)
    for path in arguments.samples:
        samples = bf.Samples.load(path, target)
        found = distances(samples, frames, target, seed=arguments.seed, dynamics=dynamics, most=arguments.most)
        for kind in ("raw", "reweighted"):
            print(f"| {path.stem} | {samples.n} | {kind} | " + " | ".join(cell(found[key][kind]) for key in SHOWN) + " |", flush=True)


if __name__ == "__main__":
    main()
