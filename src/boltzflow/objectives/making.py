"""Makes the objective that options in the configuration ask for."""

import dataclasses
import importlib

from boltzflow import config
from boltzflow.errors import ConfigError
from boltzflow.objectives.base import AbstractObjective, Setting

# Where the objectives are whose options stand in `boltzflow.config`.
_HOMES = {
    "flow-matching": ("flow_matching", "FlowMatching"),
    "maximum-likelihood": ("maximum_likelihood", "MaximumLikelihood"),
    "augmented-likelihood": ("augmented_likelihood", "AugmentedLikelihood"),
    "path-gradient": ("path_gradient", "PathGradient"),
    "reverse-kl": ("reverse_kl", "ReverseKL"),
    "augmented-reverse-kl": ("augmented_reverse_kl", "AugmentedReverseKL"),
    "fab": ("fab", "FAB"),
    "cooling": ("cooling", "Cooling"),
    "augmented-path-gradient": ("augmented_path_gradient", "AugmentedPathGradient"),
}


def made(options: config.Objective, setting: Setting) -> AbstractObjective:
    """The objective with these options in a setting.

    Raises:
        ConfigError: if what it needs is not there, or the options are of no objective.
    """
    # What an objective leaves to others is made with it.
    inner = {
        name: made(value, setting)
        for name in config.fields_of(type(options))
        if isinstance(value := getattr(options, name), config.Objective)
    }
    if isinstance(options, AbstractObjective):
        return dataclasses.replace(options, **inner).bound(setting)
    if options.variant not in _HOMES:
        raise ConfigError(f"the objective {options.variant} must be derived from boltzflow.AbstractObjective.")
    module, name = _HOMES[options.variant]
    implementation = getattr(importlib.import_module(f"boltzflow.objectives.{module}"), name)
    values = {field: getattr(options, field) for field in config.fields_of(type(options))}
    return implementation(**(values | inner)).bound(setting)
