"""`boltzflow resume`."""

from typing import Annotated

import tyro

from boltzflow.cli import output, runs


def run(folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]) -> None:
    """Continue a run that was interrupted.

    It goes on from its last valid checkpoint and ends exactly as it would have without the interruption. To train a finished run
    longer, start another from it with `boltzflow train PRESET --set training.start_from=RUN -o OTHER`.

    Args:
        folder: Folder of the run.
    """
    from boltzflow import config_io, files, progress
    from boltzflow.cli.train import train

    path = runs.folder_of(folder)
    files.require_writable(path / "model.safetensors")
    finished = (path / "model.safetensors").is_file()
    with progress.shown() as bar:
        train(config_io.load_config(path / "config.yaml"), path, bar, resume=True)
    if finished:
        output.say(f"The run had its model already. {longer(folder)}")
    output.say(f"The run in {path} is complete. Next: {output.next_steps(path)}.")


def longer(folder: str) -> str:
    """How to train a finished run longer."""
    return (
        f"To train it longer, start another run from its model: `boltzflow train PRESET --set training.start_from={folder} "
        f"training.steps=N -o OTHER`."
    )
