"""`boltzflow log-prob`."""

import json as json_format
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from boltzflow.cli import arguments, output

if TYPE_CHECKING:
    from boltzflow.targets import Target

ENDINGS = (".h5", ".hdf5", ".npz", ".csv")
"""Of the file of columns; those of `evaluation.densities`, which is not imported before it is needed."""


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    frames: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FRAMES")],
    out: Annotated[arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: none)")] = None,
    n: Annotated[arguments.MaybeInt, tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: none)")] = None,
    topology: Annotated[arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(of a trajectory)")] = None,
    selection: Annotated[arguments.MaybeText, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(of a trajectory)")] = None,
    log_weight: Annotated[
        arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: what FRAMES hold, else all alike)")
    ] = None,
    draws: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(of an augmented flow)")] = None,
    checked: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(of a continuous flow; default: 32)")] = None,
    seed: int = 0,
    chunk: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: chosen for the machine)")] = None,
    json: arguments.Flag = False,
    allow_virial_mismatch: arguments.Flag = False,
    executor: arguments.Executor = None,
    precision: Annotated[arguments.MaybePrecision, tyro.conf.arg(help_behavior_hint="(default: that of the run)")] = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Weigh your own frames with a run or a model: log q, weights, NLL, distances.

    Each frame gets its log density under the model, its energy and its weight exp(-u - log q); together they tell how well the model fits
    them, with 95 % intervals. With `-n` fresh samples of the model are compared with the frames: energies, pair distances, torsions.

    Args:
        model: Folder of a run, name of a model (`boltzflow models` lists them), or its safetensors file.
        frames: Frames of the model's target: a data set (.h5, .npz, .npy) or a trajectory (XTC, DCD, TRR, NetCDF, PDB, GRO, XYZ).
        out: File for the columns log_q, log_q_error, u and log_weight, a row for each frame (.h5, .npz or .csv).
        n: Samples to draw and to compare the frames with.
        topology: File that tells the atoms of a trajectory which does not itself.
        selection: The target's atoms among those of a trajectory, such as "protein".
        log_weight: Log-weights of frames that do not count alike, as of metadynamics (.npy, or one number a line).
        draws: Draws of the copies that log q is averaged over; the model's own number unless given.
        checked: Frames whose log q is computed again with a finer solver, for its error.
        seed: Seed of draws, samples and bootstrap; log q of a frame depends on it and on the frame's place alone.
        chunk: Frames at once; not given: as many as suit the processor's cache.
        json: Print one JSON object instead of a table.
        allow_virial_mismatch: Use frames that fail the virial check.
        executor: Workers that compute the densities instead of this process: dask://HOST:PORT, or
            dask-slurm for jobs of SLURM's.
        precision: Floating-point precision; that of the run unless given.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    arguments.count(n)
    arguments.at_least(1, draws=draws, chunk=chunk)
    arguments.at_least(0, checked=checked)
    arguments.seed(seed)
    arguments.given(model, "RUN|MODEL")
    arguments.given(frames, "FRAMES")
    path = None if out is None else arguments.new_file(out, endings=ENDINGS, option="")
    from boltzflow import extras, plugins, progress, runtime

    if n is not None:
        extras.require("evaluate", "comparing samples with frames")

    for name in plugin:
        plugins.load(name)
    runtime.configure()
    from boltzflow.models.storage import load_model, precision_of

    arguments.own_precision(executor, precision, precision_of(model))
    runtime.configure(precision or precision_of(model))
    from boltzflow import datasets
    from boltzflow.evaluation.densities import densities

    loaded = load_model(model)
    if n is not None:
        arguments.room(n, loaded.target.n_particles * loaded.target.dimension)
    reading = {"topology": topology, "selection": selection, "log_weight": log_weight}
    data = datasets.load(frames, loaded.target, **reading, allow_virial_mismatch=allow_virial_mismatch)
    with progress.shown() as bar:
        found = densities(loaded, data, n=n or 0, draws=draws, checked=checked, chunk=chunk, seed=seed, executor=executor, progress=bar)
    check = _check(data.n, loaded.target, known=log_weight is None and datasets.checked_before(frames, loaded.target))
    spent = {"check": check, **found.figures["energies"]}
    figures = {**found.figures, "energies": spent, "virial_check": data.provenance.get("virial_check")}
    if path is not None:
        found.save(path)
    if json:
        print(json_format.dumps(figures, allow_nan=False))
        return
    # What does not apply has no row.
    output.evaluation({key: value for key, value in figures.items() if value is not None})
    _tell(figures)
    if path is not None:
        print(path)


def _check(n: int, target: "Target", *, known: bool) -> dict[str, int] | None:
    """Evaluations of the energy that reading the frames has taken; None where the file knew the outcome of the check."""
    from boltzflow import datasets
    from boltzflow.counting import Evaluations

    if known or not target.has_energy:
        return None
    return (Evaluations(gradients=n) if datasets.has_gradient(target) else Evaluations(energies=n)).as_dict()


def _tell(figures: dict[str, Any]) -> None:
    """What the table does not say."""
    if figures["virial_check"]:
        output.say(f"{str(figures['virial_check'])[:1].upper()}{str(figures['virial_check'])[1:]}")
    if figures["failed_frames"]:
        output.say(f"{figures['failed_frames']} of {figures['frames']} frames have no weight: no finite log q or energy.")
