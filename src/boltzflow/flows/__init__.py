"""Flows: a base density and an invertible map, with exact likelihoods."""

from boltzflow.flows.augmented import AugmentedCouplingFlow as AugmentedCouplingFlow
from boltzflow.flows.base import AbstractFlow as AbstractFlow
from boltzflow.flows.base import FlowSolution as FlowSolution
from boltzflow.flows.build import build_flow as build_flow
from boltzflow.flows.continuous import ContinuousFlow as ContinuousFlow
from boltzflow.flows.status import STATUS_SENTENCES as STATUS_SENTENCES
from boltzflow.flows.status import Status as Status
