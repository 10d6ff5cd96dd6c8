"""`boltzflow export`."""

from pathlib import Path
from typing import Annotated

import tyro

from boltzflow.cli import arguments, output
from boltzflow.errors import ConfigError, RunError


def run(
    samples: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")],
    trajectory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TRAJECTORY")],
    topology: Annotated[arguments.MaybeText, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    resample: arguments.Flag = False,
    n: Annotated[arguments.MaybeInt, tyro.conf.arg(aliases=["-n"], metavar="N", help_behavior_hint="(default: all)")] = None,
    seed: int = 0,
    overwrite: Annotated[bool, tyro.conf.arg(aliases=["--force"], help_behavior_hint="")] = False,
) -> None:
    """Write samples or reference data as a trajectory that other programs read.

    The ending names the format: .xyz and .extxyz of any system, .pdb, .xtc, .dcd and MDTraj's .h5 of molecules. Samples carry weights,
    which .extxyz and .h5 hold; `--resample` draws frames that all count alike.

    Args:
        samples: File of `boltzflow sample` or `boltzflow reference`.
        trajectory: File to write.
        topology: Another topology than the molecule's own, such as a .pdb file.
        resample: Draw frames by their weights, so that each counts alike.
        n: Frames to write.
        seed: Seed of the resampling.
        overwrite: Replace the file if it is there.
    """
    arguments.count(n)
    arguments.seed(seed)
    arguments.given(samples, "SAMPLES")
    arguments.given(trajectory, "TRAJECTORY")
    if seed and not resample:
        raise ConfigError("--seed is for --resample; without it every sample is written.")
    if Path(trajectory).exists() and Path(samples).exists() and Path(trajectory).samefile(samples):
        raise RunError(f"{trajectory} is the file that is exported; choose another name for the trajectory.")
    path = arguments.new_file(trajectory, replace=overwrite)
    import numpy as np

    from boltzflow.sampling import Samples
    from boltzflow.sampling import export as exporting

    frames = exporting.read(samples)
    if resample and n is not None:
        arguments.room(n, int(np.prod(frames.positions.shape[1:])))
    written = exporting.export(frames, path, overwrite=overwrite, topology=topology, resampled=resample, n=n, seed=seed)
    output.say(f"{written} frames.")
    weighted = frames.has_energy if isinstance(frames, Samples) else frames.log_weight is not None
    if weighted and not resample and path.suffix.lower() not in exporting.WITH_WEIGHTS:
        output.say(f"{path.suffix} holds no weights; --resample draws frames that all count alike.")
    print(path)
