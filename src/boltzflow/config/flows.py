"""Options of the flows, their networks and solvers."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from boltzflow.config.options import Options
from boltzflow.config.ranges import AtLeastOne, Count, CountOrNone, NotNegative, Positive

_REACH, _EXTENT = 6.0, 10.0


@dataclasses.dataclass(frozen=True)
class Divergence(Options, kind="divergence"):
    """How the divergence of the vector field is computed."""


@dataclasses.dataclass(frozen=True)
class Exact(Divergence, name="exact"):
    """The fastest exact way that the vector field has."""


@dataclasses.dataclass(frozen=True)
class BruteForce(Divergence, name="brute-force"):
    """N·D Jacobian-vector products."""


@dataclasses.dataclass(frozen=True)
class Hutchinson(Divergence, name="hutchinson"):
    """An unbiased estimate of log q; reweighting with it is biased.

    Attributes:
        probes: probe vectors.
    """

    probes: Count = 1


@dataclasses.dataclass(frozen=True)
class Solver(Options, kind="solver"):
    """How the flow's ODE is integrated.

    Attributes:
        divergence: how the divergence of the vector field is computed: "exact", the fastest exact way that the field has, "brute-force",
            N·D Jacobian-vector products, or "hutchinson", an unbiased estimate of log q (reweighting with it is biased).
    """

    divergence: Divergence = dataclasses.field(default=Exact(), kw_only=True)

    def finer(self) -> Self:
        """A solver to judge this one by: twice the steps or nodes, a tenth of the tolerances, and the exact divergence."""
        return dataclasses.replace(self, divergence=Exact(), **self._finer())

    def _finer(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def unsaid(self) -> str:
        """Settings that decide log q and that `str` leaves out."""
        return f"probes {self.divergence.probes}" if isinstance(self.divergence, Hutchinson) else ""


@dataclasses.dataclass(frozen=True)
class Adaptive(Solver):
    """A solver that adapts its steps and carries the divergence through every stage.

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance, in units of the prior's standard deviation.
        max_steps: a solve that needs more than this has failed.
    """

    rtol: Positive = 1e-4
    atol: Positive = 1e-4
    max_steps: Count = 256

    def _finer(self) -> dict[str, Any]:
        return {"rtol": 0.1 * self.rtol, "atol": 0.1 * self.atol, "max_steps": 4 * self.max_steps}

    def __str__(self) -> str:
        """The method with its tolerances."""
        return f"{self.variant}, rtol {self.rtol:g}, atol {self.atol:g}"

    @property
    def unsaid(self) -> str:
        """Probes and the largest number of steps."""
        return super().unsaid + f"max_steps {self.max_steps}"


@dataclasses.dataclass(frozen=True)
class Dopri5(Adaptive, name="dopri5"):
    """The method of Dormand and Prince."""


@dataclasses.dataclass(frozen=True)
class Tsit5(Adaptive, name="tsit5"):
    """The method of Tsitouras."""


@dataclasses.dataclass(frozen=True)
class RK4(Solver, name="rk4"):
    """The classical Runge-Kutta method, which carries the divergence through every stage.

    Attributes:
        steps: equal steps.
    """

    steps: Count = 20

    def _finer(self) -> dict[str, Any]:
        return {"steps": 2 * self.steps}

    def __str__(self) -> str:
        """The method with its steps."""
        return f"rk4, {self.steps} steps"


@dataclasses.dataclass(frozen=True)
class GaussLegendre(Solver, name="gauss-legendre"):
    """Runge-Kutta steps between the nodes of a Gauss-Legendre rule, at which alone the divergence is evaluated.

    Several times cheaper than the others for the same error.

    Attributes:
        nodes: nodes of the rule.
        grading: exponent that moves the nodes towards the data, where the bonds of molecules take their length and the divergence is
            largest; 1: evenly spread, 1.5 suits molecules.
    """

    nodes: Count = 20
    grading: AtLeastOne = 1.0

    def _finer(self) -> dict[str, Any]:
        return {"nodes": 2 * self.nodes}

    def __str__(self) -> str:
        """The method with its nodes."""
        return f"gauss-legendre, {self.nodes} nodes" + (f", grading {self.grading:g}" if self.grading != 1.0 else "")


@dataclasses.dataclass(frozen=True)
class Network(Options, kind="network"):
    """The network that is the vector field."""


@dataclasses.dataclass(frozen=True)
class EGNN(Network, name="egnn"):
    """The EGNN of Satorras et al. (2021).

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
    """How a coupling layer sees a particle."""


@dataclasses.dataclass(frozen=True)
class Equivariant(Projection):
    """A layer that knows the symmetries.

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

    Attributes:
        mirror: let the frame follow reflections, so that the density is the same for mirror images.
    """

    mirror: bool = False


@dataclasses.dataclass(frozen=True)
class Cartesian(Projection, name="cartesian"):
    """Cartesian coordinates in a learned frame.

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
    """Distance from a learned origin; such a layer cannot tell mirror images apart."""


@dataclasses.dataclass(frozen=True)
class NoProjection(Projection, name="none"):
    """The baseline that is not equivariant."""


@dataclasses.dataclass(frozen=True)
class Base(Options, kind="base"):
    """Density of the latent positions."""


@dataclasses.dataclass(frozen=True)
class Normal(Base, name="normal"):
    """The standard normal."""


@dataclasses.dataclass(frozen=True)
class Harmonic(Base, name="harmonic"):
    """The bonds of the target are springs.

    Attributes:
        stiffness: of the springs, in units of the prior.
    """

    stiffness: Positive = 1.0


@dataclasses.dataclass(frozen=True)
class Flow(Options, kind="flow"):
    """The flow.

    Attributes:
        scale: length in data units that is one unit of the prior; null: the data's standard deviation per coordinate if the units are
            nm, else 1.
    """

    natural_objective: ClassVar[str] = ""

    scale: Positive | None = dataclasses.field(default=None, kw_only=True)


@dataclasses.dataclass(frozen=True)
class ECNF(Flow, name="ecnf"):
    """The equivariant continuous normalizing flow (Köhler et al., 2020).

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
