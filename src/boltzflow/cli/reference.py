"""`boltzflow reference`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from boltzflow import cluster, shards
from boltzflow.cli import arguments, molecules, output, sharing
from boltzflow.errors import ConfigError

if TYPE_CHECKING:
    from boltzflow.targets import Target

_FRAMES = 20_000
_METHODS = ("tempering", "molecular-dynamics")


def run(
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    out: Annotated[arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: TARGET.h5)")] = None,
    n: Annotated[
        arguments.MaybeInt,
        tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: 20000; with --effective 50 times as many)"),
    ] = None,
    effective: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="N", help_behavior_hint="(only for tempering)")] = None,
    seed: int = 0,
    method: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tempering",
    chains: Annotated[
        arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: chosen from N; molecular dynamics: 4)")
    ] = None,
    interval: Annotated[
        arguments.MaybeFloat, tyro.conf.arg(metavar="PS", help_behavior_hint="(default: 1; only for molecular dynamics)")
    ] = None,
    platform: Annotated[
        arguments.MaybeText,
        tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the faster of Reference and CPU; only for molecular dynamics)"),
    ] = None,
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
    precision: arguments.Precision = "single",
    resume: arguments.Flag = False,
    shard: arguments.Shard = None,
    distributed: arguments.Distributed = False,
    coordinator: arguments.Coordinator = None,
    processes: arguments.Processes = None,
    process: arguments.Process = None,
    plugin: arguments.Plugin = arguments.Words(),  # noqa: B008 (a tuple)
) -> None:
    """Make reference data of a target with a classical sampler.

    By default parallel-tempering Hamiltonian Monte Carlo, many chains at once, which is exact and crosses barriers, with decorrelated
    frames; for molecules also plain Langevin dynamics with OpenMM. Convergence figures and the virial check are printed and stored
    with the frames.

    What the tempering sampler has done is kept in FILE.parts until the file is whole, so that a run that is killed goes on with `--resume`;
    Ctrl-C writes the frames so far into FILE.partial.h5 as well.

    Args:
        target: Name of a target (`boltzflow targets` lists them), or a molecule: its file (PDB, mmCIF, prmtop,
            GROMACS .top, CHARMM .psf), `peptide:` and a sequence (small letters are D amino acids), or `smiles:` and a SMILES.
        out: Data file to write (HDF5).
        n: Frames to make; with `--effective` the most.
        effective: Effective number of frames to reach, instead of a number of frames: sampling ends when energy, size and torsions have it,
            and R-hat is at most 1.05.
        seed: Seed of the sampler.
        method: The sampler: tempering, molecular-dynamics, or one of a plug-in.
        chains: Chains that run side by side: ladders of temperatures, or trajectories.
        interval: Time from a frame to the next of the same trajectory, in ps.
        platform: OpenMM's platform, such as Reference or CPU.
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
        precision: Floating-point precision.
        shard: Make one part of the N frames only, such as the third of sixteen, with chains and a seed of its own; `boltzflow join` makes
            one file of all parts.
        resume: Continue a run of the tempering sampler that was interrupted; it ends bit-identical to one that was not.
        distributed: Be one of several processes that make a part each, with chains and a seed of its own; the first one joins them into
            FILE, whose folder all see. Under SLURM, Open MPI and Kubernetes nothing else is needed.
        coordinator: Where process 0 answers, elsewhere.
        processes: How many there are, elsewhere.
        process: Number of this one from 0, elsewhere.
        plugin: Modules, or .py files, that add targets, networks, objectives and more.
    """
    described = molecules.options(locals())
    arguments.given(target, "TARGET")
    if interval is not None and not 0 < interval < math.inf:
        raise ConfigError(f"--interval must be a positive number of picoseconds, got {interval:g}.")
    path = arguments.new_file(f"{molecules.stem(target)}.h5" if out is None else out, endings=(".h5", ".hdf5"), option="")
    arguments.count(n)
    arguments.at_least(1, chains=chains, effective=effective)
    if effective is not None and method != "tempering":
        raise ConfigError("--effective is for --method tempering; of others give the number of frames, -n.")
    n = _FRAMES if n is None and effective is None else n
    arguments.seed(seed)
    if interval is not None and method != "molecular-dynamics":
        raise ConfigError("--interval is for --method molecular-dynamics; the tempering sampler measures how far apart frames must be.")
    if resume and method != "tempering":
        raise ConfigError("--resume is for --method tempering; others are begun anew.")
    part = None if shard is None else shards.parsed(shard)
    if part is not None and (method != "tempering" or effective is not None):
        raise ConfigError("--shard is for --method tempering with a number of frames, -n; give other jobs a --seed of their own.")
    if platform is not None and method != "molecular-dynamics":
        raise ConfigError("--platform is for --method molecular-dynamics; the tempering sampler does not run in OpenMM.")
    molecule = molecules.described(target, described)
    if distributed:
        if method != "tempering":
            raise ConfigError("--distributed is for --method tempering; give other jobs a --seed of their own.")
        sharing.refuse("each process makes a part of the frames, -n.", shard=shard, effective=effective)
    arguments.join(distributed, coordinator, processes, process)
    from boltzflow import plugins, register

    for name in plugin:
        plugins.load(name)
    own = register.samplers()
    if method not in (*_METHODS, *own):
        raise ConfigError(f"--method must be one of {', '.join([*_METHODS, *own])}, got {method!r}.")
    from boltzflow import progress, runtime

    runtime.configure(precision)
    from boltzflow import reference, targets

    system = molecules.made(molecule) or targets.get(target)
    arguments.room(n or 0, system.n_particles * system.dimension, path)
    if distributed:
        _together(system, n or _FRAMES, path, seed=seed, chains=chains, resume=resume)
        return
    with progress.shown() as bar:
        if method in own:
            result = own[method](system, n, seed=seed, progress=bar)
        elif method == "tempering":
            wanted: dict[str, Any] = {"effective": effective, "chains": chains, "shard": part}
            result = reference.sample(system, n, seed=seed, progress=bar, out=path, resume=resume, **wanted)
        else:
            options = {"chains": chains, "interval": interval, "platform": platform}
            given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
            result = reference.molecular_dynamics(system, n or _FRAMES, seed=seed, progress=bar, **given)
    if method != "tempering":
        # A sampler of a plug-in may give the frames alone.
        dataset: Any = getattr(result, "dataset", result)
        dataset.save_or_rescue(path)
    if hasattr(result, "sentence"):
        output.say(result.sentence())
    print(path)


def _together(target: "Target", n: int, path: Path, *, seed: int, chains: int | None, resume: bool) -> None:
    """One process's part of the frames, and all of them joined by the first.

    Raises:
        RunError: if the folder is not shared, or what is there was not begun by the same command.
        PeerLost: if another process has gone.
    """
    from boltzflow import progress, reference
    from boltzflow.reference import joining

    sharing.agree({"the target": target.fingerprint, "-n": n, "--seed": seed, "--chains": chains, "--out": path.name})
    sharing.require_shared(path.absolute().parent)
    part = sharing.part_of(path, sharing.own())
    with progress.shown() as bar, sharing.interruptible("what is done is kept, continue with --resume"):
        # A part that is whole was made before another process was lost.
        if not (resume and part.is_file()):
            reference.sample(target, n, seed=seed, chains=chains, progress=bar, out=part, resume=resume, shard=sharing.own())
        made = sharing.joined(path, lambda parts, out: joining.join(parts, out).n)
    if cluster.chief():
        output.say(f"{cluster.count()} processes have made {made} frames.")
        print(path)
