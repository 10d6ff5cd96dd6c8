"""Training: the loop, its stages and its checkpoints.

Names are imported when they are first used: who loads a model to sample from it needs none of what trains one.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boltzflow.training.loop import train as train
    from boltzflow.training.run import Run as Run
    from boltzflow.training.run import fit as fit
    from boltzflow.training.run import open_run as open_run

_HOMES = {"train": "loop", "Run": "run", "fit": "run", "open_run": "run"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'boltzflow.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"boltzflow.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
