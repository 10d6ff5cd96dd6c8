"""Boltzmann generators in Cartesian coordinates: flows with exact likelihoods, reweighted to the Boltzmann distribution.

Names are imported when they are first used, so that `import boltzflow` and the command line's help cost nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boltzflow import analysis as analysis
    from boltzflow import config as config
    from boltzflow import datasets as datasets
    from boltzflow import errors as errors
    from boltzflow import flows as flows
    from boltzflow import geometry as geometry
    from boltzflow import nets as nets
    from boltzflow import objectives as objectives
    from boltzflow import reference as reference
    from boltzflow import register as register
    from boltzflow import report as report
    from boltzflow import sampling as sampling
    from boltzflow import targets as targets
    from boltzflow import training as training
    from boltzflow.analysis import Estimate as Estimate
    from boltzflow.config import EACF as EACF
    from boltzflow.config import ECNF as ECNF
    from boltzflow.config import EGNN as EGNN
    from boltzflow.config import Adam as Adam
    from boltzflow.config import AugmentedLikelihood as AugmentedLikelihood
    from boltzflow.config import AugmentedPathGradient as AugmentedPathGradient
    from boltzflow.config import DataConfig as DataConfig
    from boltzflow.config import FlowMatching as FlowMatching
    from boltzflow.config import GaussLegendre as GaussLegendre
    from boltzflow.config import MaximumLikelihood as MaximumLikelihood
    from boltzflow.config import Muon as Muon
    from boltzflow.config import PathGradient as PathGradient
    from boltzflow.config import RunConfig as RunConfig
    from boltzflow.config import RunOptions as RunOptions
    from boltzflow.config import Stage as Stage
    from boltzflow.config import TwoInteraction as TwoInteraction
    from boltzflow.config.io import load_preset as load_preset
    from boltzflow.datasets import Dataset as Dataset
    from boltzflow.errors import BoltzflowError as BoltzflowError
    from boltzflow.flows import ContinuousFlow as ContinuousFlow
    from boltzflow.models import load_model as load_model
    from boltzflow.objectives import AbstractObjective as AbstractObjective
    from boltzflow.sampling import Samples as Samples
    from boltzflow.targets import Target as Target
    from boltzflow.training import fit as fit
    from boltzflow.training import train as train

__all__ = [
    "AbstractObjective",
    "Adam",
    "AugmentedLikelihood",
    "AugmentedPathGradient",
    "BoltzflowError",
    "ContinuousFlow",
    "DataConfig",
    "Dataset",
    "EACF",
    "ECNF",
    "EGNN",
    "Estimate",
    "FlowMatching",
    "GaussLegendre",
    "MaximumLikelihood",
    "Muon",
    "PathGradient",
    "RunConfig",
    "RunOptions",
    "Samples",
    "Stage",
    "Target",
    "TwoInteraction",
    "__version__",
    "analysis",
    "config",
    "datasets",
    "errors",
    "fit",
    "flows",
    "geometry",
    "load_model",
    "load_preset",
    "nets",
    "objectives",
    "reference",
    "register",
    "report",
    "sampling",
    "targets",
    "train",
    "training",
]

# Where each public name that is no module lives.
_HOMES = {
    "AbstractObjective": "objectives",
    "Adam": "config",
    "AugmentedLikelihood": "config",
    "AugmentedPathGradient": "config",
    "BoltzflowError": "errors",
    "ContinuousFlow": "flows",
    "DataConfig": "config",
    "Dataset": "datasets",
    "EACF": "config",
    "ECNF": "config",
    "EGNN": "config",
    "Estimate": "analysis",
    "FlowMatching": "config",
    "GaussLegendre": "config",
    "MaximumLikelihood": "config",
    "Muon": "config",
    "PathGradient": "config",
    "RunConfig": "config",
    "RunOptions": "config",
    "Samples": "sampling",
    "Stage": "config",
    "Target": "targets",
    "TwoInteraction": "config",
    "fit": "training",
    "load_model": "models",
    "load_preset": "config.io",
    "train": "training",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'boltzflow' has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f"boltzflow.{name}")
    value = getattr(importlib.import_module(f"boltzflow.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
