"""Trains both families of flows on the same frames, and prints what came out as a table for docs/results.md.

    python tools/family_table.py dw4|lj13|lj13-once [--steps 3000] [-n 1000] [--out runs/families] [--only CELL ...] [--print]

Cells: the augmented coupling flow with each projection and without equivariance, from the preset TARGET-eacf, and the continuous flow from
the preset TARGET without path gradients. Each is a run in a folder of its own under OUT/TARGET; cells that are finished are not trained
again.
"""

import argparse
import json
from pathlib import Path

from objective_table import boltzflow, evaluated, print_table, shown

PROJECTIONS = ("vector", "cartesian", "spherical", "none")
NAMES = {
    "vector": "E-ACF, vector",
    "cartesian": "E-ACF, Cartesian",
    "spherical": "E-ACF, spherical",
    "none": "ACF, not equivariant",
    "ecnf": "E-CNF, equivariant OT-FM",
}


def run(cell: str, options: argparse.Namespace, data: Path) -> None:
    """Trains and evaluates one cell, or what is missing of it."""
    folder = options.out / options.target / cell
    shared = ["stages.1=null", f"run.devices={options.devices}", f"data.path={data}", *options.settings]
    continuous = cell == "ecnf"
    preset = options.target.removesuffix("-once") if continuous else f"{options.target}-eacf"
    own = [f"stages.0.steps={options.continuous_steps}", f"target={options.target}"]
    if not continuous:
        own = [f"stages.0.steps={options.steps}", f"flow.projection={cell}", *options.coupling]
    if not (folder / "model.safetensors").is_file():
        boltzflow("train", preset, "-o", str(folder), "--set", *own, *shared)
    if not evaluated(folder):
        boltzflow("evaluate", str(folder), "-n", str(options.n))


def row(cell: str, folder: Path) -> str:
    """One line of the table."""
    found = json.loads((folder / "evaluation.json").read_text())
    card = json.loads((folder / "model.json").read_text())

    one_draw = found.get("nll_one_draw")
    cells = [
        NAMES[cell],
        f"{card['steps']:,}".replace(",", " "),
        shown(found, "nll", 2),
        "" if one_draw is None else f"{one_draw['value'] - found['nll']['value']:.2f}",
        shown(found, "nll_minus_entropy", 2),
        shown(found, "ess_reverse", 1, 100.0),
        shown(found, "ess_forward", 1, 100.0),
        f"{card['seconds']['training'] / 60:.1f}",
        f"{found['seconds_per_1000']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Runs the cells and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("dw4", "lj13", "lj13-once"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--continuous-steps", type=int, default=2000)
    parser.add_argument("-n", type=int, default=1000, help="samples, and frames, of the evaluation")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--data", type=Path, help="frames; default: OUT/TARGET/data.h5, which is made if it is not there")
    parser.add_argument("--frames", type=int, default=100_000, help="frames to make")
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="settings of every cell")
    parser.add_argument("--coupling", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the coupling flows")
    parser.add_argument("--print", action="store_true", dest="print_only")
    options = parser.parse_args()
    data = options.data or options.out / options.target / "data.h5"
    if not options.print_only:
        if not data.is_file():
            data.parent.mkdir(parents=True, exist_ok=True)
            boltzflow("reference", options.target, "-n", str(options.frames), "--seed", "0", "-o", str(data))
        for cell in options.only:
            run(cell, options, data)
    columns = "flow | steps | NLL | one draw: + | NLL - entropy | reverse ESS, % | forward ESS, % | training, min | s per 1 000"
    print_table(columns, [row(cell, folder) for cell in NAMES if evaluated(folder := options.out / options.target / cell)])


if __name__ == "__main__":
    main()
