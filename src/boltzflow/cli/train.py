"""`boltzflow train`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from boltzflow import cluster
from boltzflow.cli import arguments, molecules, output

if TYPE_CHECKING:
    from boltzflow.config import RunConfig
    from boltzflow.progress import Progress
    from boltzflow.targets import Target


def run(
    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")],
    out: Annotated[
        arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="(default: runs/PRESET)")
    ] = None,
    set: arguments.Set = arguments.Words(),  # noqa: B008 (a tuple)
    seed: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the preset's)")] = None,
    force_field: arguments.ForceField = arguments.Words(),  # noqa: B008 (a tuple)
    temperature: arguments.Temperature = None,
    cutoff: arguments.Cutoff = None,
    caps: arguments.Caps = None,
    ph: arguments.Ph = None,
    disulfides: arguments.Disulfides = arguments.Words(),  # noqa: B008 (a tuple)
    coordinates: arguments.Coordinates = None,
    parameters: arguments.Parameters = arguments.Words(),  # noqa: B008 (a tuple)
    implicit_solvent: arguments.Solvent = None,
    include: arguments.Include = None,
    small_molecules: arguments.SmallMolecules = None,
    energies: arguments.Energies = None,
    energies_only: arguments.Flag = False,
    distributed: arguments.Distributed = False,
    coordinator: arguments.Coordinator = None,
    processes: arguments.Processes = None,
    process: arguments.Process = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Train a flow from a preset.

    Everything goes into one folder: configuration, versions, data, metrics, checkpoints and the trained model. If the folder already
    holds this very run, it is continued, with further stages if there are more now; if it holds another, nothing is touched.

    Args:
        preset: Name of a preset (`boltzflow presets` lists them), a YAML file, or a molecule, trained with the preset `molecule`: its
            file (PDB, mmCIF, prmtop, GROMACS .top, CHARMM .psf), `peptide:` and a sequence, or `smiles:` and a SMILES.
        out: Folder of the run.
        set: Change options of the preset, such as `--set flow.network.hidden=64 stages.0.steps=2000`; `boltzflow presets PRESET` explains
            all.
        seed: Seed of the training; the same as `--set run.seed=...`.
        force_field: Files of OpenMM's force field, such as `amber14-all.xml implicit/gbn2.xml`.
        temperature: Temperature of the molecule.
        cutoff: Cut-off of charges, Lennard-Jones and implicit solvent.
        caps: Ends of a peptide: ace-nme, zwitterion, neutral or cyclic.
        ph: Which hydrogens a peptide's side chains have; adds those that a file lacks.
        disulfides: Cysteines of a peptide that are bound to each other, such as `1-6`.
        coordinates: File of the positions beside a topology.
        parameters: CHARMM's files of parameters.
        implicit_solvent: Generalised Born solvent: HCT, OBC1, OBC2, GBn or GBn2.
        include: Folder of GROMACS' force fields.
        small_molecules: Force field of openmmforcefields for a SMILES, such as openff-2.2.0 or gaff-2.11.
        energies: Who computes energies: compiled (JAX), or openmm in worker processes, which is slower and knows all forces.
        energies_only: Make no frames: learn from the energy alone, by cooling (the preset `molecule-cooling`).
        distributed: Be one of several processes that share each batch, on one host or many; under SLURM, Open MPI and Kubernetes nothing
            else is needed. The first one writes.
        coordinator: Where process 0 answers, elsewhere.
        processes: How many there are, elsewhere.
        process: Number of this one from 0, elsewhere.
        plugin: Modules, or .py files, that add targets, networks, objectives and more; the run remembers them.
    """
    options = molecules.options(locals())
    arguments.seed(seed)
    arguments.given(preset, "PRESET")
    arguments.join(distributed, coordinator, processes, process)
    folder = f"runs/{molecules.stem(preset)}" if out is None else out
    # Only the first process writes into it.
    folder = arguments.new_folder(folder) if cluster.chief() else Path(folder)
    from boltzflow import extras, plugins, progress, runtime
    from boltzflow.config import io as config_io
    from boltzflow.errors import ConfigError

    extras.require("train", "training")

    loaded = [plugins.load(name) for name in plugin]
    overrides = [*set, *([] if seed is None else [f"run.seed={seed}"])]
    if energies_only and not molecules.is_source(preset):
        raise ConfigError(
            f"--energies-only is for a molecule (its file, or peptide:AAA), which has no preset of its own, and {preset!r} is a preset; "
            "leave it out, and choose a preset that learns from energies, such as molecule-cooling or dw4-cooling."
        )
    usual = "molecule-cooling" if energies_only else "molecule"
    described = molecules.described(preset, options)
    config = config_io.load_preset(usual if molecules.is_source(preset) else preset)
    if described.source is not None:
        config = dataclasses.replace(config, molecule=described)
    config = config_io.apply_overrides(config, overrides)
    config = dataclasses.replace(config, plugins=tuple(dict.fromkeys([*config.plugins, *loaded])))
    if config.molecule.source is not None:
        # JAX computes the energy of a molecule when its target is made, and cannot be set up any more after that.
        runtime.configure(config.precision, config.run.devices)
    molecule = molecules.made(config.molecule)
    if molecule is not None:
        config = dataclasses.replace(config, target=molecule.name)
    with progress.shown() as bar:
        resume = cluster.first(lambda: holds(folder, config))
        train(config, folder, bar, resume=resume, target=molecule, given=cluster.chief())
    if cluster.chief():
        output.say(f"The run is in {folder}. Next: {output.next_steps(folder)}.")


def train(config: "RunConfig", folder: Path, bar: "Progress", *, resume: bool, target: "Target | None" = None, given: bool = False) -> None:
    """Sets the process up for a configuration and trains.

    Args:
        config: what is trained on what, and how.
        folder: of the run.
        bar: told loss and step.
        resume: continue the run that the folder holds.
        target: the target, if it is not a registered one.
        given: the file of frames was named anew, so that a run that goes on must have been begun with the same.
    """
    from boltzflow import runtime

    runtime.configure(config.precision, config.run.devices)
    from boltzflow.training import frames, loop

    if resume and given:
        frames.require_named_frames(config, folder, target)
    loop.train(config, folder, resume=resume, progress=bar, target=target)


def holds(folder: Path, config: "RunConfig") -> bool:
    """Whether a folder holds a run of this configuration, whatever its description says; it may be given other stages later."""
    from boltzflow.config import io as config_io
    from boltzflow.errors import ConfigError

    path = folder / "config.yaml"
    if not path.is_file():
        return False
    try:
        there = config_io.load_config(path)
    except ConfigError:
        return False
    same = {"description": "", "plugins": (), "stages": config.stages}
    return there.stages[0] == config.stages[0] and dataclasses.replace(there, **same) == dataclasses.replace(config, **same)
