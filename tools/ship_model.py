"""Puts the model of a finished and evaluated run into the package, with a card that says how it was made and what it reaches.

    python tools/ship_model.py RUN NAME --command "boltzflow train PRESET"

The run must hold evaluation.json, as `boltzflow evaluate RUN` leaves it.
"""

import argparse
import json
import shutil
from pathlib import Path

FIGURES = "n nll nll_one_draw nll_minus_entropy ess_reverse ess_forward log_z path_length nfe pareto_k solver_error failed".split()


def main() -> None:
    """Copies the weights and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--command", required=True, help="the command that makes the run again")
    arguments = parser.parse_args()
    folder = Path(__file__).parents[1] / "src" / "boltzflow" / "pretrained"
    evaluation = json.loads((arguments.run / "evaluation.json").read_text())
    card = json.loads((arguments.run / "model.json").read_text())
    card["command"] = arguments.command
    card["figures"] = {name: evaluation[name] for name in FIGURES if evaluation.get(name) is not None}
    card["figures"]["seconds_per_1000"] = evaluation["seconds_per_1000"]
    shutil.copyfile(arguments.run / "model.safetensors", folder / f"{arguments.name}.safetensors")
    (folder / f"{arguments.name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(folder / f"{arguments.name}.safetensors")


if __name__ == "__main__":
    main()
