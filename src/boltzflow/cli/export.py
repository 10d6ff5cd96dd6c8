"""`boltzflow export`."""

from typing import Annotated

import tyro

from boltzflow.cli import arguments, output


def run(
    samples: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")],
    trajectory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TRAJECTORY")],
    topology: Annotated[arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    resample: arguments.Flag = False,
    n: Annotated[arguments.MaybeInt, tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: all)")] = None,
    seed: int = 0,
    force: arguments.Flag = False,
) -> None:
    """Write samples as a trajectory that other programs read.

    The ending names the format: .xyz and .extxyz always, .pdb, .xtc and .dcd with a topology. Frames carry weights; `--resample` draws
    frames that all count alike.

    Args:
        samples: Samples file of `boltzflow sample`.
        trajectory: File to write.
        topology: Topology of the molecule, such as a .pdb file.
        resample: Draw frames by their weights, so that each counts alike.
        n: Frames to write.
        seed: Seed of the resampling.
        force: Replace the file if it is there.
    """
    arguments.at_least(1, n=n)
    arguments.at_least(0, seed=seed)
    path = arguments.new_file(trajectory, replace=force)
    from boltzflow.sampling.samples import Samples

    written = Samples.load(samples).export(path, topology=topology, resampled=resample, n=n, seed=seed)
    output.say(f"{written} frames.")
    print(path)
