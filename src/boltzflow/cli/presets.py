"""`boltzflow presets`."""

from typing import Annotated

import tyro

from boltzflow.cli import arguments, output


def run(
    name: Annotated[arguments.MaybeText, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]", help_behavior_hint="")] = None,
) -> None:
    """List the presets, or print one with every option explained.

    What is printed is a YAML file that `boltzflow train` takes, so `boltzflow presets dw4 > mine.yaml` begins a preset of your own.

    Args:
        name: Print this preset instead of the list.
    """
    from boltzflow.config import io as config_io

    if name is not None:
        print(config_io.explain(config_io.load_preset(name)), end="")
    else:
        output.table("", ("preset", "description"), list(config_io.preset_names().items()))
