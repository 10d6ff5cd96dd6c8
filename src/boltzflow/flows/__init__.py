"""Flows: a base density and an invertible map, with exact likelihoods."""

from boltzflow.flows.build import build_flow as build_flow
from boltzflow.flows.continuous import STATUS_SENTENCES as STATUS_SENTENCES
from boltzflow.flows.continuous import ContinuousFlow as ContinuousFlow
from boltzflow.flows.continuous import FlowSolution as FlowSolution
