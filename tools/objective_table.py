"""Trains one target with every objective on one budget, and prints what came out as a table for docs/results.md.

    python tools/objective_table.py PRESET [--steps 5000] [-n 1000] [--out runs/table] [--only CELL ...] [--set KEY=VALUE ...] [--print]

Each cell is a run of the preset without path gradients, in a folder of its own under OUT/PRESET; cells that are finished are not trained
again, one that was interrupted is continued. Likelihood training takes far fewer steps of an EGNN, each far more expensive
(--likelihood-steps). All cells share the frames of the first. --print trains nothing and prints the cells that are there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CELLS = {
    "likelihood": [
        "stages.0.objective=maximum-likelihood",
        "stages.0.objective.divergence=hutchinson",
        "stages.0.batch_size=64",
        "stages.0.microbatch=8",
        "stages.0.optimiser.warmup_steps=20",
        "stages.0.optimiser.learning_rate=5.0e-4",
        "stages.0.optimiser.clip_norm=1.0",
        # The published network: with the preset's, which resolves time finely, likelihood training of DW4 diverged.
        "flow.network=egnn",
        "flow.network.layers=3",
        "flow.network.hidden=32",
    ],
    # The nodes of the presets are made for the short paths of the equivariant pairing: with them, log q of LJ13 is off by 0.25 to 0.5.
    "diffusion": ["stages.0.objective.path=diffusion", "stages.0.objective.pairing=independent", "flow.solver.nodes=48"],
    "independent": ["stages.0.objective.pairing=independent", "flow.solver.nodes=48"],
    "ot": ["stages.0.objective.pairing=optimal-transport", "flow.solver.nodes=48"],
    "eq-ot-full": ["stages.0.objective.pairing.full_cost=true"],
    "eq-ot-cheap": ["stages.0.objective.pairing.full_cost=false"],
}
NAMES = {
    "likelihood": "maximum likelihood",
    "diffusion": "diffusion path",
    "independent": "independent FM",
    "ot": "OT-FM",
    "eq-ot-full": "equivariant OT-FM, all pairs",
    "eq-ot-cheap": "equivariant OT-FM, aligned pairs",
}


def boltzflow(*arguments: str) -> None:
    """Runs a command of the package, and stops where it fails."""
    print("boltzflow", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "boltzflow", *arguments], check=True)


def run(cell: str, options: argparse.Namespace) -> None:
    """Trains and evaluates one cell, or what is missing of it."""
    folder = options.out / options.preset / cell
    data = options.data or options.out / options.preset / "data.h5"
    steps = options.likelihood_steps if cell == "likelihood" else options.steps
    settings = [f"stages.0.steps={steps}", "stages.1=null", f"run.devices={options.devices}", f"data.path={data}"]
    if not (folder / "model.safetensors").is_file():
        boltzflow("train", options.preset, "-o", str(folder), "--set", *settings, *CELLS[cell], *options.settings)
    if not evaluated(folder):
        boltzflow("evaluate", str(folder), "-n", str(options.n))


def shown(found: dict[str, Any], name: str, digits: int, factor: float = 1.0) -> str:
    """A figure of an evaluation with its interval; empty where there is none."""
    estimate = found.get(name)
    if estimate is None:
        return ""
    low, high = (f"{factor * estimate[end]:.{digits}f}" for end in ("low", "high"))
    return f"{factor * estimate['value']:.{digits}f} [{low}, {high}]"


def evaluated(folder: Path) -> bool:
    """Whether a cell has its figures."""
    return (folder / "evaluation.json").is_file()


def print_table(columns: str, rows: list[str]) -> None:
    """A table in Markdown."""
    print(f"| {columns} |", "|---" * (columns.count(" | ") + 1) + "|", *rows, sep="\n")


def row(cell: str, folder: Path) -> str:
    """One line of the table."""
    found = json.loads((folder / "evaluation.json").read_text())
    card = json.loads((folder / "model.json").read_text())

    cells = [
        NAMES[cell],
        f"{card['steps']:,}".replace(",", " "),
        shown(found, "nll", 2),
        shown(found, "nll_minus_entropy", 2),
        shown(found, "ess_reverse", 1, 100.0),
        shown(found, "ess_forward", 1, 100.0),
        shown(found, "path_length", 2),
        f"{found['nfe']['value']:.0f}",
        f"{card['seconds']['training'] / 60:.1f}",
        f"{found['seconds_per_1000']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Runs the cells and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--likelihood-steps", type=int, default=400)
    parser.add_argument("-n", type=int, default=1000, help="samples, and frames, of the evaluation")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--data", type=Path, help="frames; default: OUT/PRESET/data.h5, which is made if it is not there")
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="settings of every cell")
    parser.add_argument("--print", action="store_true", dest="print_only")
    options = parser.parse_args()
    if not options.print_only:
        data = options.data or options.out / options.preset / "data.h5"
        if not data.is_file():
            data.parent.mkdir(parents=True, exist_ok=True)
            from boltzflow.config import io as config_io

            preset = config_io.load_preset(options.preset)
            boltzflow("reference", preset.target, "-n", str(preset.data.n), "--seed", str(preset.data.seed), "-o", str(data))
        for cell in options.only:
            run(cell, options)
    columns = "objective | steps | NLL | NLL - entropy | reverse ESS, % | forward ESS, % | path length | NFE | training, min | s per 1 000"
    print_table(columns, [row(cell, folder) for cell in CELLS if evaluated(folder := options.out / options.preset / cell)])


if __name__ == "__main__":
    main()
