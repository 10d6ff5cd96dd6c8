"""From a configuration to a flow with fresh parameters."""

from jaxtyping import PRNGKeyArray

from boltzflow.config import FlowConfig
from boltzflow.flows.continuous import ContinuousFlow
from boltzflow.nets import EGNN, TwoInteraction
from boltzflow.nets.base import AbstractVectorField
from boltzflow.targets.base import Target


def build_field(config: FlowConfig, classes: tuple[int, ...], scale: float, *, key: PRNGKeyArray) -> AbstractVectorField:
    """The vector field that a configuration names, with fresh parameters.

    Args:
        config: flow and network.
        classes: interchangeability class of each particle; used as its type.
        scale: one unit of the prior in data units, by which the cut-off is divided.
        key: for the initial parameters.
    """
    cutoff = None if config.cutoff is None else config.cutoff / scale
    if config.network == "egnn":
        return EGNN(
            classes,
            layers=config.layers,
            hidden=config.hidden,
            attention=config.attention,
            radial=config.radial,
            reach=config.reach / scale,
            cutoff=cutoff,
            key=key,
        )
    return TwoInteraction(
        classes,
        layers=config.layers,
        hidden=config.hidden,
        radial=config.radial,
        reach=config.reach / scale,
        softening=config.softening / scale,
        fine_time=config.fine_time,
        channels=config.channels,
        cutoff=cutoff,
        key=key,
    )


def build_flow(config: FlowConfig, target: Target, scale: float, *, key: PRNGKeyArray) -> ContinuousFlow:
    """The flow that a configuration names, for a target, with fresh parameters."""
    field = build_field(config, target.classes, scale, key=key)
    return ContinuousFlow(field, target.n_particles, target.dimension, scale, config.solver)
