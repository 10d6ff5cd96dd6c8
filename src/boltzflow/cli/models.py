"""`boltzflow models`."""

import json
import shutil
from importlib import resources
from typing import Any

from boltzflow.cli import output

LICENCE = "MIT"
"""Of the shipped models, as of the package."""
WIDE = 120
"""Columns of a terminal that has room for descriptions."""


def run() -> None:
    """List the pretrained models.

    `boltzflow sample MODEL` and `boltzflow evaluate MODEL` take these names, or the folder of a run.
    """
    found = _shipped()
    if not found:
        print("There are no pretrained models in this installation; train one with `boltzflow train PRESET`.")
        return
    wide = shutil.get_terminal_size().columns >= WIDE
    columns = ("model", "target", "reverse ESS / %", "n", "s / 1 000", "MB", *(("description",) if wide else ()))
    rows = [_row(name, card, size)[: len(columns)] for name, (card, size) in found.items()]
    output.table("", columns, rows, right=(3, 4, 5), whole=(0,))
    devices = [f"{name} on {card['device']}" for name, (card, _) in found.items() if "device" in card]
    licences = sorted({str(card.get("licence", LICENCE)) for card, _ in found.values()})
    output.say(
        "Reverse ESS: as drawn, with a 95 % interval; for augmented flows (-eacf) `boltzflow average` raises it. Seconds for 1 000 "
        f"samples: {', '.join([*devices, 'the others on CPU cores' if devices else 'on CPU cores'])}, where the model was measured; "
        f"`boltzflow evaluate MODEL` measures yours. Licence: {', '.join(licences)}."
    )


def _row(name: str, card: dict[str, Any], size: int) -> tuple[str, ...]:
    """What is told of a model."""
    figures, about = card.get("figures", {}), str(card.get("description", ""))
    ess, n = "-", ""
    if "ess_reverse" in figures:
        from boltzflow.analysis.estimate import Estimate

        estimate = Estimate.from_dict(figures["ess_reverse"])
        ess, n = " ".join(estimate.scaled(100.0).texts()), str(estimate.n)
    return name, str(card.get("target", "")), ess, n, f"{figures.get('seconds_per_1000', float('nan')):.3g}", f"{size / 1e6:.1f}", about


def cards() -> dict[str, dict[str, Any]]:
    """Model card of each model that ships with the package."""
    return {name: card for name, (card, _) in _shipped().items()}


def _shipped() -> dict[str, tuple[dict[str, Any], int]]:
    """Card and size in bytes of each model that ships with the package."""
    folder = resources.files("boltzflow") / "pretrained"
    if not folder.is_dir():
        return {}
    files = {file.name: file for file in folder.iterdir()}
    found = {}
    for name in sorted(name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")):
        card = files.get(f"{name}.json")
        content = json.loads(card.read_text(encoding="utf-8")) if card is not None else {}
        with resources.as_file(files[f"{name}.safetensors"]) as weights:
            found[name] = content, weights.stat().st_size
    return found
