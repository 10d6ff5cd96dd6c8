"""Boltzmann generators in Cartesian coordinates: flows with exact likelihoods, reweighted to the Boltzmann distribution.

Names are imported when they are first used, so that `import boltzflow` and the command line's help cost nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boltzflow import analysis as analysis
    from boltzflow import blackbox as blackbox
    from boltzflow import chemistry as chemistry
    from boltzflow import cluster as cluster
    from boltzflow import config as config
    from boltzflow import counting as counting
    from boltzflow import datasets as datasets
    from boltzflow import errors as errors
    from boltzflow import evaluation as evaluation
    from boltzflow import flows as flows
    from boltzflow import geometry as geometry
    from boltzflow import models as models
    from boltzflow import nets as nets
    from boltzflow import objectives as objectives
    from boltzflow import plugins as plugins
    from boltzflow import progress as progress
    from boltzflow import reference as reference
    from boltzflow import register as register
    from boltzflow import report as report
    from boltzflow import runtime as runtime
    from boltzflow import sampling as sampling
    from boltzflow import seeds as seeds
    from boltzflow import shards as shards
    from boltzflow import targets as targets
    from boltzflow import training as training
    from boltzflow.analysis import Estimate as Estimate
    from boltzflow.config import EACF as EACF
    from boltzflow.config import ECNF as ECNF
    from boltzflow.config import EGNN as EGNN
    from boltzflow.config import FAB as FAB
    from boltzflow.config import RK4 as RK4
    from boltzflow.config import Adam as Adam
    from boltzflow.config import AugmentedLikelihood as AugmentedLikelihood
    from boltzflow.config import AugmentedPathGradient as AugmentedPathGradient
    from boltzflow.config import AugmentedReverseKL as AugmentedReverseKL
    from boltzflow.config import BruteForce as BruteForce
    from boltzflow.config import Cartesian as Cartesian
    from boltzflow.config import Cooling as Cooling
    from boltzflow.config import DataConfig as DataConfig
    from boltzflow.config import Dopri5 as Dopri5
    from boltzflow.config import Equivariant as Equivariant
    from boltzflow.config import EquivariantOptimalTransport as EquivariantOptimalTransport
    from boltzflow.config import Exact as Exact
    from boltzflow.config import FlowMatching as FlowMatching
    from boltzflow.config import GaussLegendre as GaussLegendre
    from boltzflow.config import Harmonic as Harmonic
    from boltzflow.config import Hutchinson as Hutchinson
    from boltzflow.config import Independent as Independent
    from boltzflow.config import MaximumLikelihood as MaximumLikelihood
    from boltzflow.config import Molecule as Molecule
    from boltzflow.config import Muon as Muon
    from boltzflow.config import NoProjection as NoProjection
    from boltzflow.config import Normal as Normal
    from boltzflow.config import OptimalTransport as OptimalTransport
    from boltzflow.config import PathGradient as PathGradient
    from boltzflow.config import ReverseKL as ReverseKL
    from boltzflow.config import RunConfig as RunConfig
    from boltzflow.config import RunOptions as RunOptions
    from boltzflow.config import Spherical as Spherical
    from boltzflow.config import Stage as Stage
    from boltzflow.config import Tsit5 as Tsit5
    from boltzflow.config import TwoInteraction as TwoInteraction
    from boltzflow.config import Vector as Vector
    from boltzflow.config.io import load_preset as load_preset
    from boltzflow.datasets import Dataset as Dataset
    from boltzflow.errors import BoltzflowError as BoltzflowError
    from boltzflow.evaluation import Model as Model
    from boltzflow.evaluation import load_model as load_model
    from boltzflow.flows import AugmentedCouplingFlow as AugmentedCouplingFlow
    from boltzflow.flows import ContinuousFlow as ContinuousFlow
    from boltzflow.objectives import AbstractObjective as AbstractObjective
    from boltzflow.sampling import Samples as Samples
    from boltzflow.targets import Target as Target
    from boltzflow.training import Run as Run
    from boltzflow.training import fit as fit
    from boltzflow.training import open_run as open_run
    from boltzflow.training import train as train

__all__ = [
    "AbstractObjective",
    "Adam",
    "AugmentedCouplingFlow",
    "AugmentedLikelihood",
    "AugmentedPathGradient",
    "AugmentedReverseKL",
    "BoltzflowError",
    "BruteForce",
    "Cartesian",
    "ContinuousFlow",
    "DataConfig",
    "Dataset",
    "Dopri5",
    "EACF",
    "ECNF",
    "EGNN",
    "Equivariant",
    "EquivariantOptimalTransport",
    "Estimate",
    "Exact",
    "Cooling",
    "FAB",
    "FlowMatching",
    "GaussLegendre",
    "Harmonic",
    "Hutchinson",
    "Independent",
    "MaximumLikelihood",
    "Model",
    "Molecule",
    "Muon",
    "NoProjection",
    "Normal",
    "OptimalTransport",
    "PathGradient",
    "RK4",
    "Run",
    "ReverseKL",
    "RunConfig",
    "RunOptions",
    "Samples",
    "Spherical",
    "Stage",
    "Target",
    "Tsit5",
    "TwoInteraction",
    "Vector",
    "__version__",
    "analysis",
    "blackbox",
    "chemistry",
    "cluster",
    "config",
    "counting",
    "datasets",
    "errors",
    "evaluation",
    "fit",
    "flows",
    "geometry",
    "load_model",
    "load_preset",
    "models",
    "nets",
    "objectives",
    "open_run",
    "plugins",
    "progress",
    "reference",
    "register",
    "report",
    "runtime",
    "sampling",
    "seeds",
    "shards",
    "targets",
    "train",
    "training",
]

# Where each public name that is no module lives.
_HOMES = {
    "AbstractObjective": "objectives",
    "Adam": "config",
    "AugmentedCouplingFlow": "flows",
    "AugmentedLikelihood": "config",
    "AugmentedPathGradient": "config",
    "AugmentedReverseKL": "config",
    "BoltzflowError": "errors",
    "BruteForce": "config",
    "Cartesian": "config",
    "ContinuousFlow": "flows",
    "DataConfig": "config",
    "Dataset": "datasets",
    "Dopri5": "config",
    "EACF": "config",
    "ECNF": "config",
    "EGNN": "config",
    "Equivariant": "config",
    "EquivariantOptimalTransport": "config",
    "Estimate": "analysis",
    "Exact": "config",
    "Cooling": "config",
    "FAB": "config",
    "FlowMatching": "config",
    "GaussLegendre": "config",
    "Harmonic": "config",
    "Hutchinson": "config",
    "Independent": "config",
    "MaximumLikelihood": "config",
    "Molecule": "config",
    "Model": "evaluation",
    "Muon": "config",
    "NoProjection": "config",
    "Normal": "config",
    "OptimalTransport": "config",
    "PathGradient": "config",
    "RK4": "config",
    "Run": "training",
    "ReverseKL": "config",
    "RunConfig": "config",
    "RunOptions": "config",
    "Samples": "sampling",
    "Spherical": "config",
    "Stage": "config",
    "Target": "targets",
    "Tsit5": "config",
    "TwoInteraction": "config",
    "Vector": "config",
    "fit": "training",
    "load_model": "evaluation",
    "load_preset": "config.io",
    "open_run": "training",
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
