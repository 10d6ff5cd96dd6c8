"""`boltzflow join`."""

from typing import Annotated

import tyro

from boltzflow.cli import arguments, output
from boltzflow.errors import ConfigError


def run(
    shards: Annotated[arguments.Words, tyro.conf.Positional, arguments.words("SHARD ...")],
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "samples.h5",
) -> None:
    """Join shards of samples or of reference data into one file.

    Each shard is what `boltzflow sample --shard k/K` or `boltzflow reference --shard k/K` has written. All must be there, once each,
    finished, and of one and the same model and seed; what is missing is named. Samples come out as if they had been drawn at once.

    Args:
        shards: Files of the shards, in any order.
        out: File to write (HDF5).
    """
    if not shards:
        raise ConfigError("name the files of the shards, such as `boltzflow join part*.h5 -o all.h5`.")
    for name in shards:
        arguments.given(name, "the name of a shard")
    path = arguments.new_file(out, endings=(".h5", ".hdf5"), option="")
    from boltzflow.datasets.stored import holds

    if holds(shards[0]):
        from boltzflow.reference import joining as of_frames

        n, what = of_frames.join(shards, path).n, "frames"
    else:
        from boltzflow.sampling import joining as of_samples

        n, what = of_samples.join(shards, path), "samples"
    output.say(f"{len(shards)} shards joined: {n} {what}.")
    print(path)
