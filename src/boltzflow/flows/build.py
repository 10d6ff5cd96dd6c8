"""From a configuration to a flow with fresh parameters."""

import inspect

import jax
from jaxtyping import PRNGKeyArray

from boltzflow import config
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


def build_field(
    options: config.Network, classes: tuple[int, ...], scale: float, *, tempered: bool = False, key: PRNGKeyArray
) -> AbstractVectorField:
    """The vector field that a configuration names, with fresh parameters.

    Args:
        options: those of the network; one of a plug-in has a method `build` with the other arguments.
        classes: interchangeability class of each particle; used as its type.
        scale: one unit of the prior in data units, by which the cut-off is divided.
        tempered: whether it is a field of the temperature, too; one of a plug-in that can be takes the argument.
        key: for the initial parameters.

    Raises:
        ConfigError: if nobody says how the network is built, or how it knows the temperature.
    """
    if isinstance(options, config.EGNN):
        return EGNN(
            classes,
            layers=options.layers,
            hidden=options.hidden,
            attention=options.attention,
            radial=options.radial,
            reach=options.reached / scale,
            cutoff=None if options.cutoff is None else options.cutoff / scale,
            tempered=tempered,
            key=key,
        )
    if isinstance(options, config.TwoInteraction):
        return TwoInteraction(
            classes,
            layers=options.depth,
            hidden=options.hidden,
            radial=options.radial,
            reach=options.reach / scale,
            softening=options.softening / scale,
            fine_time=options.fine_time,
            channels=options.channels,
            typed_pairs=options.typed_pairs,
            cutoff=None if options.cutoff is None else options.cutoff / scale,
            tempered=tempered,
            key=key,
        )
    build = getattr(options, "build", None)
    if build is None:
        raise ConfigError(f"the network {options.variant} must have a method build(classes, scale, *, key) that makes the vector field.")
    field = build(classes, scale, key=key, **({"tempered": True} if tempered and "tempered" in inspect.signature(build).parameters else {}))
    if tempered and field.log_temperature is None:
        raise ConfigError(f"the network {options.variant} knows of no temperature; leave out flow.tempered.")
    return field


def build_coupling(options: config.EACF, classes: tuple[int, ...], dimension: int, *, key: PRNGKeyArray) -> CouplingStack:
    """The coupling layers that a configuration names, with fresh parameters; the identity.

    Args:
        options: kind, number and sizes of the layers.
        classes: interchangeability class of each particle; used as its type.
        dimension: D.
        key: for the initial parameters.

    Raises:
        ConfigError: if the projection is not made for this many dimensions.
    """
    pairs, seen = (options.augmented + 1) // 2, options.projection
    projection = _projection(seen, dimension)

    def layer(key: PRNGKeyArray) -> CouplingLayer | PlainCoupling:
        if projection is None or not isinstance(seen, config.Equivariant | config.Cartesian):
            return PlainCoupling(classes, dimension, pairs=pairs, layers=options.layers, features=options.features, key=key)
        sizes = {"layers": options.layers, "features": options.features, "width": seen.width, "radial": seen.radial}
        return CouplingLayer(classes, projection, pairs=pairs, **sizes, key=key)

    key_layers, key_scalings = jax.random.split(key)
    scalings = None
    if options.scaling:
        scalings = stacked(lambda key: Scaling(options.augmented + 1, key=key), options.blocks, key=key_scalings)
    return CouplingStack(stacked(layer, 2 * options.blocks, key=key_layers), scalings)


def _projection(options: config.Projection, dimension: int) -> Projection | None:
    """How the layers see a particle; None for the baseline."""
    if isinstance(options, config.Cartesian | config.Spherical) and dimension not in (2, 3):
        raise ConfigError(
            f"flow.projection={options.variant} makes its frames in 2 or 3 dimensions, and the target has {dimension}; choose vector, or "
            "the continuous flow (flow=ecnf)."
        )
    if isinstance(options, config.Cartesian):
        return Cartesian(dimension, bins=options.bins, reach=options.extent)
    if isinstance(options, config.Vector):
        return Vector(dimension, bins=options.bins, reach=options.extent)
    if isinstance(options, config.Spherical):
        return Spherical(dimension, bins=options.bins, reach=options.extent, reflections=options.mirror)
    return None


def build_flow(options: config.Flow, target: Target, scale: float, *, key: PRNGKeyArray) -> AbstractFlow:
    """The flow that a configuration names, for a target, with fresh parameters.

    Args:
        options: those of the flow.
        target: gives the numbers of particles and dimensions, classes and bonds.
        scale: one unit of the prior in data units.
        key: for the initial parameters.

    Raises:
        ConfigError: if it is not made for the target's number of dimensions, or nobody says how it is built.
    """
    size = {"n_particles": target.n_particles, "dimension": target.dimension, "scale": scale}
    if isinstance(options, config.EACF):
        prior = Normal()
        if isinstance(options.base, config.Harmonic):
            prior = Harmonic(target.bonds, target.n_particles, options.base.stiffness)
        return AugmentedCouplingFlow(
            stack=build_coupling(options, target.classes, target.dimension, key=key),
            prior=prior,
            augmented=options.augmented,
            noise=options.noise,
            marginal_draws=options.marginal_draws,
            **size,
        )
    if isinstance(options, config.ECNF):
        if isinstance(options.network, config.TwoInteraction) and target.dimension == 1:
            raise ConfigError("flow.network=two-interaction describes surroundings by directions, of which a line has none; choose egnn.")
        field = build_field(options.network, target.classes, scale, tempered=options.tempered, key=key)
        return ContinuousFlow(field=field, solver=options.solver, **size)
    raise ConfigError(f"nobody says how the flow {options.variant} is built.")
