"""Puts the model of a finished and evaluated run into the package, with a card that says how it was made and what it reaches.

    python tools/ship_model.py RUN NAME --command "boltzflow train PRESET"

The run must hold evaluation.json, as `boltzflow evaluate RUN` leaves it. The name of a machine's folder does not go into the package.
Large models can be rounded to half precision before they are evaluated and shipped, which makes another flow with another exact density:

    python tools/ship_model.py RUN --half
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from boltzflow.config import io as config_io

FIGURES = "n nll nll_one_draw nll_minus_entropy ess_reverse ess_forward log_z path_length nfe pareto_k solver_error failed".split()


def rewrite(file: Path, dtype: type | None = None) -> None:
    """Writes a model anew without the path of its data, its weights in `dtype` if that is given."""
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    config = config_io.loads(metadata["config"], str(file))
    metadata["config"] = config_io.dump(dataclasses.replace(config, data=dataclasses.replace(config.data, path=None)))
    weights = load_file(file)
    save_file({name: weights[name] if dtype is None else weights[name].astype(dtype) for name in sorted(weights)}, file, metadata=metadata)


def main() -> None:
    """Copies the weights and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--command", help="the command that makes the run again")
    parser.add_argument("--half", action="store_true", help="only round the weights of the run to half precision")
    arguments = parser.parse_args()
    if arguments.half:
        rewrite(arguments.run / "model.safetensors", np.float16)
        return
    if not (arguments.name and arguments.command):
        parser.error("a name and --command are needed")
    folder = Path(__file__).parents[1] / "src" / "boltzflow" / "pretrained"
    evaluation = json.loads((arguments.run / "evaluation.json").read_text())
    card = json.loads((arguments.run / "model.json").read_text())
    card["command"] = arguments.command
    card["figures"] = {name: evaluation[name] for name in FIGURES if evaluation.get(name) is not None}
    card["figures"]["seconds_per_1000"] = evaluation["seconds_per_1000"]
    card["data"].pop("path", None)
    shutil.copyfile(arguments.run / "model.safetensors", folder / f"{arguments.name}.safetensors")
    rewrite(folder / f"{arguments.name}.safetensors")
    (folder / f"{arguments.name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(folder / f"{arguments.name}.safetensors")


if __name__ == "__main__":
    main()
