"""Objectives: what teaches a flow its target.

Names are imported when they are first used: their options, in `boltzflow.config`, need no JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood as AugmentedLikelihood
    from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient as AugmentedPathGradient
    from boltzflow.objectives.augmented_reverse_kl import AugmentedReverseKL as AugmentedReverseKL
    from boltzflow.objectives.base import AbstractObjective as AbstractObjective
    from boltzflow.objectives.base import Needs as Needs
    from boltzflow.objectives.base import Proposal as Proposal
    from boltzflow.objectives.base import Renewal as Renewal
    from boltzflow.objectives.base import Setting as Setting
    from boltzflow.objectives.cooling import Cooling as Cooling
    from boltzflow.objectives.fab import FAB as FAB
    from boltzflow.objectives.flow_matching import FlowMatching as FlowMatching
    from boltzflow.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
    from boltzflow.objectives.pairing import pair as pair
    from boltzflow.objectives.path_gradient import PathGradient as PathGradient
    from boltzflow.objectives.reverse_kl import ReverseKL as ReverseKL

_HOMES = {
    "AbstractObjective": "base",
    "AugmentedLikelihood": "augmented_likelihood",
    "AugmentedPathGradient": "augmented_path_gradient",
    "AugmentedReverseKL": "augmented_reverse_kl",
    "Cooling": "cooling",
    "FAB": "fab",
    "FlowMatching": "flow_matching",
    "MaximumLikelihood": "maximum_likelihood",
    "Needs": "base",
    "PathGradient": "path_gradient",
    "Proposal": "base",
    "Renewal": "base",
    "ReverseKL": "reverse_kl",
    "Setting": "base",
    "pair": "pairing",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'boltzflow.objectives' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"boltzflow.objectives.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
