"""`boltzflow evaluate`."""

import json as json_format
from typing import TYPE_CHECKING, Annotated

import tyro

from boltzflow.cli import arguments, output
from boltzflow.errors import RunError

if TYPE_CHECKING:
    from boltzflow.analysis.tica import Tica
    from boltzflow.targets.base import Target


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    data: Annotated[
        arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the run's own, else made anew)")
    ] = None,
    dynamics: Annotated[
        arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(for TICA-W2; of --method molecular-dynamics)")
    ] = None,
    samples: Annotated[arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: drawn anew)")] = None,
    n: arguments.Count = 10_000,
    seed: int = 0,
    json: arguments.Flag = False,
    allow_virial_mismatch: arguments.Flag = False,
    executor: arguments.Executor = None,
    precision: Annotated[arguments.MaybePrecision, tyro.conf.arg(help_behavior_hint="(default: that of the run)")] = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Measure a run or a model: NLL, ESS, log Z, distances, path length, times.

    Draws samples and takes held-out frames of the target; every figure comes with n and a 95 % interval. For a run the figures are
    kept in its folder as evaluation.json, for the report, unless frames are given.

    Args:
        model: Folder of a run, or name of a model (`boltzflow models` lists them).
        data: Held-out frames of the target (.h5, .npz or .npy).
        dynamics: Frames of molecular dynamics in the order of time, on which TICA is fitted; or the tica.json that an evaluation of a run
            has kept.
        samples: Samples of this very model that are drawn already, such as `boltzflow join` has joined from shards.
        n: Samples to draw, and the most frames to use.
        seed: Seed of the samples and of the bootstrap.
        json: Print one JSON object instead of a table.
        allow_virial_mismatch: Use frames that fail the virial check.
        executor: Workers that draw the samples and compute the densities of the frames instead of this process: dask://HOST:PORT, or
            dask-slurm for jobs of SLURM's.
        precision: Floating-point precision; that of the run unless given.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    arguments.count(n)
    arguments.seed(seed)
    arguments.given(model, "RUN|MODEL")
    if data is not None:
        arguments.given(data, "the name after --data")
    if dynamics is not None:
        arguments.given(dynamics, "the name after --dynamics")
    if samples is not None:
        arguments.given(samples, "the name after --samples")
    from boltzflow import extras, plugins, progress, runtime

    extras.require("evaluate", "an evaluation")

    for name in plugin:
        plugins.load(name)

    runtime.configure()
    from boltzflow.models.storage import load_model, precision_of

    arguments.own_precision(executor, precision, precision_of(model))
    runtime.configure(precision or precision_of(model))
    from boltzflow import datasets, files
    from boltzflow.evaluation.figures import evaluate
    from boltzflow.sampling import sample_file

    loaded = load_model(model)
    arguments.room(n, loaded.target.n_particles * loaded.target.dimension)
    frames = datasets.load(data, loaded.target, allow_virial_mismatch=allow_virial_mismatch) if data is not None else None
    drawn = None if samples is None else sample_file.load(samples, loaded.target)
    slow = _slow(dynamics, loaded.target, allow_virial_mismatch)
    kept = loaded.run / "evaluation.json" if loaded.run is not None and data is None else None
    if kept is not None:
        try:
            files.require_writable(kept)
        except RunError as error:
            # Told before the work, which is worth its figures on the terminal all the same.
            output.say(f"The figures are printed but not kept: {error}")
            kept = None
    with progress.shown() as bar:
        figures = evaluate(loaded, n, seed=seed, frames=frames, samples=drawn, dynamics=slow, executor=executor, progress=bar)
    if json:
        print(json_format.dumps(figures, allow_nan=False))
    else:
        output.evaluation(figures)
    if kept is not None:
        try:
            files.replace_json(kept, figures)
            if slow is not None:
                slow.save(kept.with_name("tica.json"))
        except OSError as error:
            output.say(f"The figures are not kept in {kept.parent} ({error.strerror or error}).")


def _slow(name: str | None, target: "Target", allow_virial_mismatch: bool) -> "Tica | None":
    """The slow coordinates of a file of molecular dynamics, or those that a file holds."""
    if name is None:
        return None
    from boltzflow import datasets
    from boltzflow.analysis import tica
    from boltzflow.evaluation.scorecard import slow_model

    stored = name.endswith(".json")
    return slow_model(tica.load(name) if stored else datasets.load(name, target, allow_virial_mismatch=allow_virial_mismatch), target)
