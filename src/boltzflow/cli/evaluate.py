"""`boltzflow evaluate`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from boltzflow import cluster, shards
from boltzflow.cli import arguments, output, sharing
from boltzflow.errors import ConfigError, RunError

if TYPE_CHECKING:
    from boltzflow.analysis.tica import Tica
    from boltzflow.datasets import Dataset
    from boltzflow.models import Model
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
    shard: arguments.Shard = None,
    out: Annotated[arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="(of shares alone)")] = None,
    distributed: arguments.Distributed = False,
    coordinator: arguments.Coordinator = None,
    processes: arguments.Processes = None,
    process: arguments.Process = None,
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
        samples: Samples of this very model that are drawn already, such as `boltzflow join` has joined from shards; or the folder of all
            shares.
        n: Samples to draw, and the most frames to use.
        seed: Seed of the samples and of the bootstrap.
        json: Print one JSON object instead of a table.
        allow_virial_mismatch: Use frames that fail the virial check.
        executor: Workers that draw the samples and compute the densities of the frames instead of this process: dask://HOST:PORT, or
            dask-slurm for jobs of SLURM's.
        shard: Make one share only, such as the third of sixteen, of the samples and of the densities of the frames; `--samples FOLDER`
            makes the figures of all.
        out: Folder of the shares.
        distributed: Be one of several processes that make a share each, in a folder that all see; the first one makes the figures. Under
            SLURM, Open MPI and Kubernetes nothing else is needed.
        coordinator: Where process 0 answers, elsewhere.
        processes: How many there are, elsewhere.
        process: Number of this one from 0, elsewhere.
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
    part = None if shard is None else shards.parsed(shard)
    divided = part is not None or distributed
    if distributed:
        sharing.refuse("each process makes a share of samples and densities.", shard=shard, executor=executor, samples=samples)
    if part is not None and (executor, samples, dynamics) != (None, None, None):
        raise ConfigError("--shard makes samples and densities alone; give --executor, --samples and --dynamics to what makes the figures.")
    if divided != (out is not None):
        raise ConfigError("-o is the folder of shares, which belongs to --shard k/K or --distributed; give both, or neither.")
    arguments.join(distributed, coordinator, processes, process)
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
    from boltzflow.evaluation.shares import joined
    from boltzflow.sampling import sample_file

    loaded = load_model(model)
    arguments.room(n, loaded.target.n_particles * loaded.target.dimension)
    frames = datasets.load(data, loaded.target, allow_virial_mismatch=allow_virial_mismatch) if data is not None else None
    if out is not None:
        _share(loaded, Path(out), n, part or sharing.own(), seed=seed, frames=frames)
        if not distributed or not cluster.chief():
            return
        samples = out
    ratios = None
    if samples is not None and Path(samples).is_dir():
        file, n, ratios = joined(loaded, samples)
        samples = str(file)
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
        figures = evaluate(
            loaded, n, seed=seed, frames=frames, samples=drawn, dynamics=slow, ratios=ratios, executor=executor, progress=bar
        )
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


def _share(model: "Model", folder: Path, n: int, shard: shards.Shard, *, seed: int, frames: "Dataset | None") -> None:
    """One share of the samples and of the densities of the frames; of several processes, once all have made theirs.

    Raises:
        ConfigError: if there are no frames that all could use.
        RunError: if the folder cannot be written or is not shared.
        PeerLost: if another process has gone.
    """
    from boltzflow import progress
    from boltzflow.evaluation import shares
    from boltzflow.evaluation.figures import validation_frames
    from boltzflow.flows.identity import identity

    frames = validation_frames(model) if frames is None else frames
    if frames is None:
        raise ConfigError(
            "shares need frames that are the same for all: make some with `boltzflow reference TARGET -o FILE`, and give --data FILE."
        )
    if cluster.joined():
        sharing.agree({"the model (hash)": identity(model.flow)["identity"], "-n": n, "--seed": seed, "the number of frames": frames.n})
        sharing.require_shared(folder.absolute())
    with progress.shown() as bar, sharing.interruptible("what is done is kept, start the same command again"):
        shares.make(model, folder, n, shard, seed=seed, frames=frames, progress=bar)
        sharing.finish()
    if not cluster.joined():
        output.say(f"Share {shard[0]}/{shard[1]} is made; with all of them, `boltzflow evaluate {model.name} --samples {folder}`.")
        print(folder)
