"""Evaluation: the figures of a model, each with n and an interval."""

from boltzflow.evaluation.densities import Densities as Densities
from boltzflow.evaluation.densities import densities as densities
from boltzflow.evaluation.figures import evaluate as evaluate
from boltzflow.evaluation.model import Model as Model
from boltzflow.evaluation.model import load_model as load_model
from boltzflow.evaluation.scorecard import scorecard as scorecard
