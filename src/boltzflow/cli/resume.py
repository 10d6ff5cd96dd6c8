"""`boltzflow resume`."""

from pathlib import Path
from typing import Annotated

import tyro

from boltzflow.cli import output
from boltzflow.errors import RunError, nearest


def run(folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]) -> None:
    """Continue a run that was interrupted.

    It goes on from its last valid checkpoint and ends exactly as it would have without the interruption.

    Args:
        folder: Folder of the run.
    """
    from boltzflow import config_io, progress
    from boltzflow.cli.train import train

    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise RunError(f"there is no run in {path} (it has no config.yaml){_others(path)}")
    with progress.shown() as bar:
        train(config_io.load_config(path / "config.yaml"), path, bar, resume=True)
    output.say(f"The run in {path} is complete. Next: {output.next_steps(path)}.")


def _others(path: Path) -> str:
    """Ends the sentence with the runs beside it."""
    runs = [str(found.parent) for found in path.parent.glob("*/config.yaml")] if path.parent.is_dir() else []
    return f"; {nearest(str(path), runs)}" if runs else "; begin one with `boltzflow train PRESET -o RUN`."
