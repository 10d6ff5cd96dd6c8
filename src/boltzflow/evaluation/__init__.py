"""Evaluation: the figures of a model, each with n and an interval."""

from boltzflow.evaluation.evaluate import evaluate as evaluate
