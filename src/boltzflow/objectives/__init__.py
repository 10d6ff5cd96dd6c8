"""Objectives: what teaches a flow its target."""

from boltzflow.objectives.flow_matching import FlowMatching as FlowMatching
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from boltzflow.objectives.pairing import pair as pair
from boltzflow.objectives.path_gradient import PathGradient as PathGradient
