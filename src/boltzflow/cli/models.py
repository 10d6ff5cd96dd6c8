"""`boltzflow models`."""

import json
from importlib import resources
from typing import Any

from boltzflow.cli import output


def run() -> None:
    """List the pretrained models.

    `boltzflow sample MODEL` and `boltzflow evaluate MODEL` take these names, or the folder of a run.
    """
    rows = [(name, str(card.get("target", "")), str(card.get("description", ""))) for name, card in cards().items()]
    if rows:
        output.table("", ("model", "target", "description"), rows)
    else:
        print("There are no pretrained models in this installation; train one with `boltzflow train PRESET`.")


def cards() -> dict[str, dict[str, Any]]:
    """Model card of each model that ships with the package."""
    folder = resources.files("boltzflow") / "pretrained"
    if not folder.is_dir():
        return {}
    files = {file.name: file for file in folder.iterdir()}
    found = {}
    for name in sorted(name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")):
        card = files.get(f"{name}.json")
        found[name] = json.loads(card.read_text(encoding="utf-8")) if card is not None else {}
    return found
