"""`boltzflow sample`."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from boltzflow import cluster, counting, shards
from boltzflow.cli import arguments, output, sharing
from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from boltzflow.sampling import Samples

_N = 1_000


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")],
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "samples.h5",
    n: Annotated[
        arguments.MaybeInt,
        tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: 1000, or what --energies allow)"),
    ] = None,
    seed: int = 0,
    resume: arguments.Flag = False,
    chunk: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: chosen for the machine)")] = None,
    precision: Annotated[arguments.MaybePrecision, tyro.conf.arg(help_behavior_hint="(default: that of the run)")] = None,
    correct: Literal["none", "metropolis", "smc"] = "none",
    energies: Annotated[arguments.MaybeFloat, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="(only with --correct)")] = None,
    temperature: Annotated[arguments.MaybeFloat, tyro.conf.arg(metavar="KELVIN", help_behavior_hint="(default: the target's)")] = None,
    shard: arguments.Shard = None,
    executor: arguments.Executor = None,
    devices: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all accelerators)")] = None,
    distributed: arguments.Distributed = False,
    coordinator: arguments.Coordinator = None,
    processes: arguments.Processes = None,
    process: arguments.Process = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Draw samples with their exact probability from a run or a model.

    Samples go to disk chunk by chunk: what is written stays valid if the process is killed, and `--resume` continues there. The same
    model, seed and chunk give the same samples.

    With `--correct smc` populations of the flow are weighed, resampled and moved at the target, with `--correct metropolis` chains jump
    to proposals of the flow and move locally in between; both are exact from any flow that covers the target, at more energies for each
    sample.

    Args:
        model: Folder of a run, or name of a model (`boltzflow models` lists them).
        out: Samples file to write (HDF5): positions, log q, reduced energy, status, NFE and path length of each.
        n: Samples to draw.
        seed: Seed of the samples.
        resume: Continue the file if it is there.
        chunk: Samples drawn at once; not given: as many as suit the processor's cache.
        precision: Floating-point precision; that of the run unless given.
        correct: How samples are brought from the flow to the target; none: their weights alone do it.
        energies: Evaluations of the energy that the correction may cost, such as 1e6; there are as many samples as it allows, or -n if
            these are fewer.
        temperature: Another temperature than the target's, of flows that know it (flow.tempered); of targets in reduced units as a multiple
            of theirs.
        shard: Draw one part of the N samples only, such as the third of sixteen; `boltzflow join` makes one file of all parts.
        executor: Workers that draw the chunks instead of this process: dask://HOST:PORT, or dask-slurm for jobs of SLURM's.
        devices: Local devices that draw at the same time; the samples do not depend on it.
        distributed: Be one of several processes that draw a shard each; the first one joins them into FILE, whose folder all see. Under
            SLURM, Open MPI and Kubernetes nothing else is needed.
        coordinator: Where process 0 answers, elsewhere.
        processes: How many there are, elsewhere.
        process: Number of this one from 0, elsewhere.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    arguments.count(n)
    arguments.at_least(1, devices=devices)
    if correct != "none" and executor is not None:
        raise ConfigError(f"--executor is of plain samples; leave it out with --correct {correct}.")
    if executor is not None and (devices is not None or temperature is not None):
        raise ConfigError("workers of --executor draw with devices of their own, at the target's temperature; leave the other option out.")
    part = None if shard is None else shards.parsed(shard)
    if part is not None and correct != "none":
        raise ConfigError(f"--shard is of plain samples; with --correct {correct} give each job a --seed of its own.")
    if correct == "none" and energies is not None:
        raise ConfigError("--energies bounds a correction; add --correct smc or metropolis, or choose -n: each plain sample costs one.")
    if correct != "none" and chunk is not None:
        raise ConfigError(f"--chunk is of plain samples; leave it out with --correct {correct}.")
    if energies is not None and not energies >= 1:
        raise ConfigError(f"--energies must be at least 1, got {energies:g}.")
    n = _N if n is None and energies is None else n
    arguments.count(chunk, "chunk")
    arguments.seed(seed)
    arguments.given(model, "RUN|MODEL")
    if distributed:
        sharing.refuse("each process draws a shard of plain samples.", shard=shard, executor=executor, correct=correct)
    arguments.join(distributed, coordinator, processes, process)
    if distributed:
        # A shard is what is continued; the whole is there once all are finished.
        path, part = arguments.new_file(out, endings=(".h5", ".hdf5"), option=""), sharing.own()
    else:
        path = arguments.new_file(out, endings=(".h5", ".hdf5"), replace=resume, option="add --resume to continue it, ")
    from boltzflow import plugins, progress, runtime

    for name in plugin:
        plugins.load(name)

    runtime.configure(devices=devices or 1)
    from boltzflow.models.storage import load_model, precision_of

    arguments.own_precision(executor, precision, precision_of(model))
    runtime.configure(precision or precision_of(model), devices or 1)
    from boltzflow.flows.identity import identity
    from boltzflow.sampling import Samples, joining
    from boltzflow.sampling.generate import generate

    loaded = load_model(model)
    loaded = loaded if temperature is None else loaded.at_temperature(temperature)
    # No sample costs less than one energy.
    most = int(min(number for number in (n, energies) if number is not None))
    begin, end = (0, most) if part is None else shards.bounds(most, part)
    arguments.room(end - begin, loaded.target.n_particles * loaded.target.dimension, path)
    if executor is not None:
        from boltzflow.models.remote import farm

        remote = farm(loaded, executor, seed=seed)
    else:
        remote = None
    began = time.perf_counter()
    own = path
    if distributed:
        facts = {"the model (hash)": identity(loaded.flow)["identity"], "the target": loaded.target.fingerprint}
        sharing.agree({**facts, "-n": most, "--seed": seed, "--chunk": chunk, "--out": path.name})
        sharing.require_shared(path.absolute().parent)
        own = sharing.part_of(path, sharing.own())
    options: dict[str, Any] = {"seed": seed, "out": own, "resume": resume, "model": model}
    with progress.shown() as bar, sharing.interruptible("what is drawn is kept, continue with --resume"):
        if correct == "none":
            samples = generate(
                loaded.flow, loaded.target, most, chunk=chunk, shard=part, devices=devices, remote=remote, progress=bar, **options
            )
        else:
            from boltzflow.sampling.correct import METHODS

            samples = METHODS[correct](loaded.flow, loaded.target, n, energies=energies, devices=devices, progress=bar, **options)
        if distributed:
            sharing.joined(path, joining.join)
    if distributed:
        if not cluster.chief():
            return
        samples = Samples.load(path, loaded.target)
    if n is not None and part is None and samples.n < n:
        output.say(f"{energies:g} energies allow {samples.n} samples.")
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
    rows += _correction(samples)
    rows.append(("seconds, compilation included", f"{seconds:.1f}", ""))
    output.table("", ("", "value", "95 % interval"), rows, right=(1, 2))
    output.remarks(figures)


def _correction(samples: "Samples") -> list[tuple[str, str, str]]:
    """Rows about a correction, if there was one: what it cost, and whether chains have mixed."""
    if "correction" not in samples.meta:
        return []
    rows: list[tuple[str, str, str]] = []
    if "schedule" in samples.meta and "b" in samples.meta["schedule"]:
        rows.append(("temperatures", str(len(samples.meta["schedule"]["b"])), ""))
    tried = samples.meta.get("tried_moves")
    rows += [("acceptance of moves", output.number(samples.meta["accepted_moves"] / tried), "")] if tried else []
    names = {
        "acceptance": "acceptance of the flow",
        "longest_stay": "longest stay, steps",
        "autocorrelation_time": "autocorrelation time, steps",
        "r_hat": "R-hat",
    }
    found = samples.meta.get("diagnostics", {})
    return rows + [(label, output.number(found.get(name)), "") for name, label in names.items() if name in found]
