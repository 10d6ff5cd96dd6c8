"""`boltzflow sample`."""

import time
from typing import TYPE_CHECKING, Annotated

import tyro

from boltzflow import counting
from boltzflow.cli import arguments, output

if TYPE_CHECKING:
    from boltzflow.sampling import Samples


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "samples.h5",
    n: arguments.Count = 1_000,
    seed: int = 0,
    resume: arguments.Flag = False,
    chunk: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: chosen for the machine)")] = None,
    precision: Annotated[arguments.MaybePrecision, tyro.conf.arg(help_behavior_hint="(default: that of the run)")] = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Draw samples with their exact probability from a run or a model.

    Samples go to disk chunk by chunk: what is written stays valid if the process is killed, and `--resume` continues there. The same
    model, seed and chunk give the same samples.

    Args:
        model: Folder of a run, or name of a model (`boltzflow models` lists them).
        out: Samples file to write (HDF5): positions, log q, reduced energy, status, NFE and path length of each.
        n: Samples to draw.
        seed: Seed of the samples.
        resume: Continue the file if it is there.
        chunk: Samples drawn at once; not given: as many as suit the processor's cache.
        precision: Floating-point precision; that of the run unless given.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    arguments.count(n)
    arguments.count(chunk, "chunk")
    arguments.seed(seed)
    arguments.given(model, "RUN|MODEL")
    path = arguments.new_file(out, endings=(".h5", ".hdf5"), replace=resume, option="add --resume to continue it, ")
    from boltzflow import plugins, progress, runtime

    for name in plugin:
        plugins.load(name)

    runtime.configure()
    from boltzflow.models.model import load_model, precision_of

    runtime.configure(precision or precision_of(model))
    from boltzflow.sampling.generate import generate

    loaded = load_model(model)
    arguments.room(n, loaded.target.n_particles * loaded.target.dimension, path)
    began = time.perf_counter()
    with progress.shown() as bar:
        samples = generate(loaded.flow, loaded.target, n, seed=seed, out=path, resume=resume, progress=bar, model=model, chunk=chunk)
    summarize(samples, seconds=time.perf_counter() - began)
    print(path)


def summarize(samples: "Samples", *, seconds: float) -> None:
    """Prints what was drawn and how well it covers the target."""
    figures = samples.summary()
    chirality = ("other_stereoisomer",) if figures["other_stereoisomer"] is not None else ()
    names = ("n", "failed", *chirality, "ess_reverse", "log_z", "pareto_k")
    labels = {**output.LABELS, "n": "samples"}
    rows = [(labels[name], *output.cells(name, figures[name])[:2]) for name in names]
    if (spent := counting.Evaluations.of_meta(samples.meta)) is not None:
        rows.append(("evaluations of the energy", f"{spent.total:,}", ""))
    rows.append(("seconds, compilation included", f"{seconds:.1f}", ""))
    output.table("", ("", "value", "95 % interval"), rows, right=(1, 2))
    output.remarks(figures)
