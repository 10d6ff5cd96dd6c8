"""From a configuration to a flow with fresh parameters."""

import jax
from jaxtyping import PRNGKeyArray

from boltzflow.config import CouplingConfig, FlowConfig
from boltzflow.errors import ConfigError
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.continuous import ContinuousFlow
from boltzflow.flows.coupling import Cartesian, CouplingLayer, CouplingStack, PlainCoupling, Projection, Scaling, Spherical, Vector
from boltzflow.flows.prior import Harmonic, Normal
from boltzflow.nets import EGNN, TwoInteraction
from boltzflow.nets.base import AbstractVectorField
from boltzflow.nets.stacking import stacked
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
        typed_pairs=config.typed_pairs,
        cutoff=cutoff,
        key=key,
    )


def build_coupling(config: CouplingConfig, classes: tuple[int, ...], dimension: int, *, key: PRNGKeyArray) -> CouplingStack:
    """The coupling layers that a configuration names, with fresh parameters; the identity.

    Args:
        config: kind, number and sizes of the layers.
        classes: interchangeability class of each particle; used as its type.
        dimension: D.
        key: for the initial parameters.

    Raises:
        ConfigError: if the projection is not made for this many dimensions.
    """
    pairs = (config.augmented + 1) // 2

    def layer(key: PRNGKeyArray) -> CouplingLayer | PlainCoupling:
        if config.projection == "none":
            return PlainCoupling(classes, dimension, pairs=pairs, layers=config.layers, features=config.features, key=key)
        projection = _projection(config, dimension)
        sizes = {"layers": config.layers, "features": config.features, "width": config.width, "radial": config.radial}
        return CouplingLayer(classes, projection, pairs=pairs, **sizes, key=key)

    key_layers, key_scalings = jax.random.split(key)
    scalings = None
    if config.scaling:
        scalings = stacked(lambda key: Scaling(config.augmented + 1, key=key), config.blocks, key=key_scalings)
    return CouplingStack(stacked(layer, 2 * config.blocks, key=key_layers), scalings)


def _projection(config: CouplingConfig, dimension: int) -> Projection:
    if config.projection != "vector" and dimension not in (2, 3):
        raise ConfigError(
            f"flow.coupling.projection={config.projection} makes its frames in 2 or 3 dimensions, and the target has {dimension}; choose "
            "vector, or the continuous flow (flow.family=ecnf)."
        )
    if config.projection == "cartesian":
        return Cartesian(dimension, bins=config.bins, reach=config.reach)
    if config.projection == "vector":
        return Vector(dimension, bins=config.bins, reach=config.reach)
    return Spherical(dimension, bins=config.bins, reach=config.reach, reflections=config.mirror)


def build_flow(config: FlowConfig, target: Target, scale: float, *, key: PRNGKeyArray) -> AbstractFlow:
    """The flow that a configuration names, for a target, with fresh parameters.

    Raises:
        ConfigError: if it is not made for the target's number of dimensions.
    """
    if config.family == "eacf":
        coupling = config.coupling
        prior = Normal()
        if coupling.base == "harmonic":
            prior = Harmonic(target.bonds, target.n_particles, coupling.stiffness)
        stack = build_coupling(coupling, target.classes, target.dimension, key=key)
        return AugmentedCouplingFlow(
            stack=stack,
            prior=prior,
            n_particles=target.n_particles,
            dimension=target.dimension,
            augmented=coupling.augmented,
            noise=coupling.noise,
            scale=scale,
            marginal_draws=coupling.marginal_draws,
        )
    if config.network == "two-interaction" and target.dimension == 1:
        raise ConfigError("flow.network=two-interaction describes surroundings by directions, of which a line has none; choose egnn.")
    field = build_field(config, target.classes, scale, key=key)
    return ContinuousFlow(field=field, n_particles=target.n_particles, dimension=target.dimension, scale=scale, solver=config.solver)
