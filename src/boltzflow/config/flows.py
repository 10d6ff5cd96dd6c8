"""Options of the flows and their networks."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

from boltzflow.config.options import Options
from boltzflow.config.ranges import Count, CountOrNone, NotNegative, Positive
from boltzflow.config.solvers import Dopri5, Solver

_REACH, _EXTENT = 6.0, 10.0


@dataclasses.dataclass(frozen=True)
class Network(Options, kind="network"):
    """The network that is the vector field.

    Example:
        >>> isinstance(bf.EGNN(hidden=64), bf.config.Network)
        True
    """


@dataclasses.dataclass(frozen=True)
class EGNN(Network, name="egnn"):
    """The EGNN of Satorras et al. (2021).

    Example:
        >>> bf.EGNN(hidden=64, layers=4, radial=16).reached
        6.0

    Attributes:
        layers: message-passing layers.
        hidden: width of the networks.
        attention: gate each message by a learned sigmoid.
        radial: Gaussian radial functions of the distance, added to the edge features; 0: none.
        reach: distance, in data units, up to which the radial functions resolve distances; it should exceed the largest one in the data.
            null: 6, where there are radial functions.
        cutoff: distance, in data units, beyond which particles do not see each other; null: all see all.
    """

    layers: Count = 3
    hidden: Count = 32
    attention: bool = True
    radial: CountOrNone = 0
    reach: Positive | None = None
    cutoff: Positive | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """A reach needs radial functions."""
        if self.reach is not None and self.radial == 0:
            yield "reach", "would have no effect: it is the reach of radial functions, and radial is 0; leave it out"

    @property
    def reached(self) -> float:
        """The reach of radial functions."""
        return _REACH if self.reach is None else self.reach


@dataclasses.dataclass(frozen=True)
class TwoInteraction(Network, name="two-interaction"):
    """Two interactions by radial functions, and vector and rank-2 sums over neighbours, whose exact divergence costs a few forward passes.

    Example:
        >>> bf.ECNF(network=bf.TwoInteraction(hidden=48, fine_time="both")).network.variant
        'two-interaction'

    Attributes:
        depth: residual blocks of the node-wise network.
        hidden: width of the networks.
        radial: Gaussian radial functions of the distance.
        reach: distance, in data units, up to which the radial functions resolve distances; it should exceed the largest one in the data.
        softening: distance, in data units, below which distances and directions are smoothed. Particles of the prior meet, and there an
            unsmoothed direction makes the divergence singular and the solver slow; 0: none.
        fine_time: at which ends time is resolved logarithmically, "data" or "both": the density takes its shape near the data, and near the
            prior the field of a paired flow decides which way each configuration goes.
        channels: vector and rank-2 channels.
        typed_pairs: give each pair of particle types a radial function of its own; for molecules, whose bonds are narrow and all
            different.
        cutoff: distance, in data units, beyond which particles do not see each other; null: all see all.
    """

    depth: Count = 2
    hidden: Count = 32
    radial: Count = 32
    reach: Positive = _REACH
    softening: NotNegative = 0.0
    fine_time: Literal["data", "both"] = "data"
    channels: Count = 16
    typed_pairs: bool = False
    cutoff: Positive | None = None


@dataclasses.dataclass(frozen=True)
class Projection(Options, kind="projection"):
    """How a coupling layer sees a particle.

    Example:
        >>> [kind.variant for kind in (bf.Cartesian, bf.Spherical, bf.Vector, bf.NoProjection)]
        ['cartesian', 'spherical', 'vector', 'none']
    """


@dataclasses.dataclass(frozen=True)
class Equivariant(Projection):
    """A layer that knows the symmetries.

    Example:
        >>> isinstance(bf.Spherical(width=64), bf.Equivariant)
        True

    Attributes:
        width: width of messages and hidden layers.
        radial: Gaussian radial functions of the distance, added to the edge features of the networks; 0: none, as published.
        bins: bins of the splines.
        extent: distance from the origin up to which splines act, in units of the prior.
    """

    width: Count = 32
    radial: CountOrNone = 0
    bins: Count = 8
    extent: Positive = _EXTENT


@dataclasses.dataclass(frozen=True)
class Spherical(Equivariant, name="spherical"):
    """Spherical coordinates in a learned frame.

    Example:
        >>> bf.EACF(projection=bf.Spherical(mirror=True)).projection.mirror
        True

    Attributes:
        mirror: let the frame follow reflections, so that the density is the same for mirror images.
    """

    mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Cartesian(Projection, name="cartesian"):
    """Cartesian coordinates in a learned frame.

    Example:
        >>> bf.EACF(projection=bf.Cartesian(bins=0)).projection.variant
        'cartesian'

    Attributes:
        width: width of messages and hidden layers.
        radial: Gaussian radial functions of the distance, added to the edge features of the networks; 0: none, as published.
        bins: bins of the splines; 0: affine functions.
        extent: distance from the origin up to which splines act, in units of the prior.
    """

    width: Count = 32
    radial: CountOrNone = 0
    bins: CountOrNone = 8
    extent: Positive = _EXTENT

    def problems(self) -> Iterator[tuple[str, str]]:
        """Affine functions act everywhere."""
        if self.bins == 0 and self.extent != _EXTENT:
            yield "extent", "would have no effect: it is that of splines, and bins is 0; leave it out"


@dataclasses.dataclass(frozen=True)
class Vector(Equivariant, name="vector"):
    """Distance from a learned origin; such a layer cannot tell mirror images apart.

    Example:
        >>> bf.EACF(projection=bf.Vector(width=16)).projection.bins
        8
    """


@dataclasses.dataclass(frozen=True)
class NoProjection(Projection, name="none"):
    """The baseline that is not equivariant.

    Example:
        >>> bf.EACF(projection=bf.NoProjection()).projection.variant
        'none'
    """


@dataclasses.dataclass(frozen=True)
class Base(Options, kind="base"):
    """Density of the latent positions.

    Example:
        >>> isinstance(bf.Harmonic(), bf.config.Base)
        True
    """


@dataclasses.dataclass(frozen=True)
class Normal(Base, name="normal"):
    """The standard normal.

    Example:
        >>> bf.EACF(base=bf.Normal()).base.variant
        'normal'
    """


@dataclasses.dataclass(frozen=True)
class Harmonic(Base, name="harmonic"):
    """The bonds of the target are springs.

    Example:
        >>> bf.EACF(base=bf.Harmonic(stiffness=2.0)).base.stiffness
        2.0

    Attributes:
        stiffness: of the springs, in units of the prior.
    """

    stiffness: Positive = 1.0


@dataclasses.dataclass(frozen=True)
class Flow(Options, kind="flow"):
    """The flow.

    Example:
        >>> [kind.natural_objective for kind in (bf.ECNF, bf.EACF)]
        ['flow-matching', 'augmented-likelihood']

    Attributes:
        scale: length in data units that is one unit of the prior; null: the data's standard deviation per coordinate if the units are
            nm, else 1.
    """

    natural_objective: ClassVar[str] = ""

    scale: Positive | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class ECNF(Flow, name="ecnf"):
    """The equivariant continuous normalizing flow (Köhler et al., 2020).

    Example:
        >>> flow = bf.ECNF(network=bf.EGNN(hidden=16), solver=bf.GaussLegendre(nodes=8))
        >>> str(flow.solver)
        'gauss-legendre, 8 nodes'

    Attributes:
        network: the vector field.
        solver: integration of the flow's ODE.
        tempered: let the network know the temperature, so that one flow learns all rungs of a cooling, and gives samples and densities at
            each of them.
    """

    natural_objective: ClassVar[str] = "flow-matching"

    network: Network = EGNN()
    solver: Solver = Dopri5()
    tempered: bool = False


@dataclasses.dataclass(frozen=True)
class EACF(Flow, name="eacf"):
    """The equivariant augmented coupling flow (Midgley, Stimper et al., 2023).

    The sizes are chosen for CPUs; the presets `lj13-eacf-published` and `qm9-eacf-published` have those of the paper.

    Example:
        >>> bf.EACF(projection=bf.Spherical(), blocks=4).blocks
        4

    Attributes:
        projection: how a particle is seen by a layer: "cartesian" or "spherical" coordinates in a learned frame, "vector" (distance from
            a learned origin; the only one that cannot tell mirror images apart), or "none", the baseline that is not equivariant.
        blocks: blocks of two coupling layers each.
        augmented: copies of the positions, an odd number.
        noise: standard deviation of the copies around the positions, in units of the prior.
        layers: message-passing layers of each network.
        features: invariant features of a particle.
        scaling: scaling layers between the blocks.
        base: density of the latent positions: "normal", or "harmonic" (bonds of the target are springs).
        marginal_draws: draws of the copies for the density of positions alone.
    """

    natural_objective: ClassVar[str] = "augmented-likelihood"

    projection: Projection = Spherical()
    blocks: Count = 8
    augmented: Count = 1
    noise: Positive = 0.3
    layers: Count = 2
    features: Count = 64
    scaling: bool = False
    base: Base = Normal()
    marginal_draws: Count = 20

    def problems(self) -> Iterator[tuple[str, str]]:
        """Channels fall into two groups of one size, and features into four heads of the baseline."""
        if self.augmented % 2 == 0:
            yield "augmented", f"must be odd, so that positions and copies fall into two groups of one size, got {self.augmented}"
        if isinstance(self.projection, NoProjection) and self.features % 4:
            yield "features", f"must be a multiple of 4 for the projection 'none', got {self.features}"
