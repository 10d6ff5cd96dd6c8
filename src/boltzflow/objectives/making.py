"""Makes the objective that options in the configuration ask for."""

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
    "augmented-path-gradient": ("augmented_path_gradient", "AugmentedPathGradient"),
}


def made(options: config.Objective, setting: Setting) -> AbstractObjective:
    """The objective with these options in a setting.

    Raises:
        ConfigError: if what it needs is not there, or the options are of no objective.
    """
    if isinstance(options, AbstractObjective):
        return options.bound(setting)
    if options.variant not in _HOMES:
        raise ConfigError(f"the objective {options.variant} must be derived from boltzflow.AbstractObjective.")
    module, name = _HOMES[options.variant]
    implementation = getattr(importlib.import_module(f"boltzflow.objectives.{module}"), name)
    values = {field: getattr(options, field) for field in config.fields_of(type(options))}
    return implementation(**values).bound(setting)
