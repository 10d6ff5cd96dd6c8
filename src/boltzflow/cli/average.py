"""`boltzflow average`."""

import time
from typing import Annotated

import tyro

from boltzflow.cli import arguments


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    samples: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")],
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "averaged.h5",
    n: Annotated[arguments.MaybeInt, tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: all)")] = None,
    resume: arguments.Flag = False,
    executor: arguments.Executor = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Average the copies of an augmented flow out of the weights of its samples.

    Log q of each sample becomes that of its positions alone, averaged over draws of the copies; the weights stay exact and vary less.
    Positions and energies stay as they are. What is done outlasts a kill, and `--resume` continues there, to the same result.

    Args:
        model: Folder of the run, or name of the model, that drew the samples.
        samples: File of `boltzflow sample`.
        out: Samples file to write (HDF5).
        n: The first samples only.
        resume: Continue the file if it is there.
        executor: Workers that draw the copies instead of this process: dask://HOST:PORT, or dask-slurm for jobs of SLURM's.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    arguments.count(n)
    arguments.given(model, "RUN|MODEL")
    arguments.given(samples, "SAMPLES")
    path = arguments.new_file(out, endings=(".h5", ".hdf5"), replace=resume, option="add --resume to continue it, ")
    from boltzflow import plugins, progress, runtime

    for name in plugin:
        plugins.load(name)
    runtime.configure()
    from boltzflow.models.storage import load_model, precision_of

    runtime.configure(precision_of(model))
    from boltzflow.cli.sample import summarize
    from boltzflow.models.remote import ratio_farm
    from boltzflow.sampling import Samples
    from boltzflow.sampling.averaging import average_to, require_copies

    loaded = load_model(model)
    # Before the samples are looked for: for a model without copies there are none to find.
    require_copies(loaded.flow)
    drawn = Samples.load(samples, loaded.target)
    remote = None if executor is None else ratio_farm(loaded, executor)
    began = time.perf_counter()
    with progress.shown() as bar:
        found = average_to(drawn.take(slice(0, n)), loaded.flow, loaded.target, path, resume=resume, remote=remote, progress=bar)
    summarize(found, seconds=time.perf_counter() - began)
    print(path)
