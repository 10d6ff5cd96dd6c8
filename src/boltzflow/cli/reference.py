"""`boltzflow reference`."""

from pathlib import Path
from typing import Annotated

import tyro

from boltzflow.cli import arguments, molecules, output


def run(
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    out: Annotated[arguments.MaybeText, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: TARGET.h5)")] = None,
    n: arguments.Count = 20_000,
    seed: int = 0,
    chains: Annotated[arguments.MaybeInt, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: chosen from N)")] = None,
    force_field: arguments.ForceField = arguments.Words(),  # noqa: B008 (a tuple)
    temperature: arguments.Temperature = None,
    precision: arguments.Precision = "single",
) -> None:
    """Make reference data of a target with the tempering sampler.

    Parallel-tempering Hamiltonian Monte Carlo, many chains at once; the frames are decorrelated, and convergence figures and the
    virial check are printed and stored with them.

    Args:
        target: Name of a target (`boltzflow targets` lists them), or a molecule's PDB or mmCIF file.
        out: Data file to write (HDF5).
        n: Frames to make.
        seed: Seed of the sampler.
        chains: Ladders of temperatures that run side by side.
        force_field: Files of OpenMM's force field, such as `amber14-all.xml implicit/gbn2.xml`.
        temperature: Temperature of the molecule.
        precision: Floating-point precision.
    """
    arguments.at_least(1, n=n, chains=chains)
    arguments.at_least(0, seed=seed)
    from boltzflow import progress, runtime

    runtime.configure(precision)
    from boltzflow import reference, targets

    system = molecules.from_words(target, force_field, temperature) or targets.get(target)
    path = arguments.new_file(out or f"{Path(target).stem}.h5", endings=(".h5", ".hdf5"))
    with progress.shown() as bar:
        fraction = progress.FractionOf(bar, f"reference data of {target}")
        result = reference.sample(system, n, seed=seed, chains=chains, progress=fraction)
    result.dataset.save(path)
    output.say(result.sentence())
    print(path)
