"""`boltzflow resume`."""

from typing import Annotated

import tyro

from boltzflow import cluster
from boltzflow.cli import arguments, output, runs


def run(
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    set: arguments.Set = arguments.Words(),  # noqa: B008 (a tuple)
    distributed: arguments.Distributed = False,
    coordinator: arguments.Coordinator = None,
    processes: arguments.Processes = None,
    process: arguments.Process = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Continue a run that was interrupted, or give it another stage.

    It goes on from its last valid checkpoint and ends exactly as it would have without the interruption. A finished run goes on when it is
    given one more stage, such as `boltzflow resume RUN --set stages.1.objective=path-gradient stages.1.steps=400`.

    Args:
        folder: Folder of the run.
        set: Add a stage, change one that has not begun, or how often is logged and saved.
        distributed: Be one of several processes that share each batch, on one host or many; under SLURM, Open MPI and Kubernetes nothing
            else is needed. The first one writes.
        coordinator: Where process 0 answers, elsewhere.
        processes: How many there are, elsewhere.
        process: Number of this one from 0, elsewhere.
        plugin: Modules, or .py files, that the run needs.
    """
    from boltzflow import extras, files, plugins, progress
    from boltzflow.cli.train import train
    from boltzflow.config import io as config_io

    arguments.join(distributed, coordinator, processes, process)
    path = runs.folder_of(folder)
    extras.require("train", "training")
    if cluster.chief():
        files.require_writable(path / "model.safetensors")
    for name in plugin:
        plugins.load(name)
    before = config_io.load_config(path / "config.yaml")
    config = config_io.apply_overrides(before, set) if set else before
    finished = (path / "model.safetensors").is_file() and len(config.stages) == len(before.stages)
    with progress.shown() as bar:
        train(config, path, bar, resume=True)
    if not cluster.chief():
        return
    if finished:
        output.say(f"The run had its model already. {longer(folder, len(config.stages))}")
    output.say(f"The run in {path} is complete. Next: {output.next_steps(path)}.")


def longer(folder: str, stages: int) -> str:
    """How to train a finished run longer.

    Args:
        folder: of the run.
        stages: that it has.
    """
    return f"To train it longer, give it another stage: `boltzflow resume {folder} --set stages.{stages}.steps=N`."
