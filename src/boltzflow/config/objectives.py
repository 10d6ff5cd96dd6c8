"""Options of the objectives; what they do stands in `boltzflow.objectives`."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

from boltzflow.config.options import Options
from boltzflow.config.ranges import AtLeastOne, Count, CountOrNone, NotNegative, Positive, Share

PairingName = Literal["independent", "optimal-transport", "equivariant-optimal-transport"]
PathName = Literal["linear", "diffusion"]
DivergenceName = Literal["exact", "brute-force", "hutchinson"]
StartName = Literal["chains", "frames", "flow"]
EstimatorName = Literal["path-gradient", "reparametrised"]
DirectionName = Literal["reverse", "forward", "both"]


@dataclasses.dataclass(frozen=True)
class Pairing(Options, kind="pairing"):
    """Which prior sample is matched with which data sample.

    Example:
        >>> isinstance(bf.Independent(), bf.config.Pairing)
        True
    """


@dataclasses.dataclass(frozen=True)
class Independent(Pairing, name="independent"):
    """At random.

    Example:
        >>> bf.FlowMatching(pairing=bf.Independent()).pairing.variant
        'independent'
    """


@dataclasses.dataclass(frozen=True)
class OptimalTransport(Pairing, name="optimal-transport"):
    """The cheapest assignment of the batch.

    Example:
        >>> bf.FlowMatching(pairing=bf.OptimalTransport()).pairing.variant
        'optimal-transport'
    """


@dataclasses.dataclass(frozen=True)
class EquivariantOptimalTransport(Pairing, name="equivariant-optimal-transport"):
    """The cheapest assignment up to rotations, reflections where they are a symmetry, and permutations (Klein, Krämer and Noé, 2023).

    Example:
        >>> bf.FlowMatching(pairing=bf.EquivariantOptimalTransport(full_cost=True)).pairing.full_cost
        True

    Attributes:
        full_cost: minimise over all B×B pairs as published; false aligns pairs that the batch assignment has already matched.
    """

    full_cost: bool = False


@dataclasses.dataclass(frozen=True)
class Objective(Options, kind="objective"):
    """What is minimised, configuration by configuration.

    Class attributes that are no options:
        flows: names of the flows that it is made for; empty: any.
        measure: what the log calls the mean of the losses.
        expensive: whether a step takes so long that each is logged and every tenth saved.

    Example:
        >>> isinstance(bf.config.ReverseKL(), bf.config.Objective)
        True
    """

    flows: ClassVar[tuple[str, ...]] = ()
    measure: ClassVar[str] = "loss"
    expensive: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class FlowMatching(Objective, name="flow-matching"):
    """Flow matching (Klein, Krämer and Noé, 2023; Lipman et al., 2023).

    Example:
        >>> bf.Stage(objective=bf.FlowMatching(sigma=0.0), steps=1_000).objective.path
        'linear'

    Attributes:
        path: "linear", or "diffusion" for the variance-preserving diffusion path, whose flow is the probability flow of a diffusion model
            where the pairing is independent.
        pairing: which prior sample is matched with which data sample.
        sigma: standard deviation of the noise around the path, in units of the prior.
        late_time: share of the times that are drawn near t = 1, where the fine structure of the density is decided; 0: uniform times.
    """

    flows: ClassVar[tuple[str, ...]] = ("ecnf",)

    path: PathName = "linear"
    pairing: Pairing = EquivariantOptimalTransport()
    sigma: NotNegative = 0.01
    late_time: Share = 0.0


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood(Objective, name="maximum-likelihood"):
    """The negative log-likelihood of frames, through the ODE: many times as expensive a step as one of flow matching.

    Example:
        >>> bf.MaximumLikelihood(nodes=8).divergence
        'exact'

    Attributes:
        nodes: nodes of the Gauss-Legendre rule along each path.
        divergence: how the divergence of the vector field is computed; "hutchinson" takes one probe vector for each frame.
    """

    flows: ClassVar[tuple[str, ...]] = ("ecnf",)

    nodes: Count = 10
    divergence: DivergenceName = "exact"


@dataclasses.dataclass(frozen=True)
class AugmentedLikelihood(Objective, name="augmented-likelihood"):
    """The negative log-likelihood of frames and their copies (Midgley, Stimper et al., 2023).

    Example:
        >>> bf.AugmentedLikelihood().flows
        ('eacf',)

    Attributes:
        collinearity: weight of the penalty against degenerate frames, which there are in three dimensions alone.
    """

    flows: ClassVar[tuple[str, ...]] = ("eacf",)

    collinearity: NotNegative = 10.0


@dataclasses.dataclass(frozen=True)
class PathGradient(Objective, name="path-gradient"):
    """Path gradients of the Kullback-Leibler divergence, for a flow that is trained already (Vaitl et al., 2022, 2024).

    Example:
        >>> bf.Stage(objective=bf.PathGradient(nodes=8), steps=800).objective.direction
        'both'

    Attributes:
        direction: "reverse" (KL(q|p) over flow samples), "forward" (KL(p|q) over reference frames) or "both".
        nodes: nodes of the Gauss-Legendre rule along each path.
        grading: exponent that moves these nodes towards the data, as that of the solver gauss-legendre.
        clip: largest difference of scores, in units of the prior, with which one configuration pulls.
    """

    flows: ClassVar[tuple[str, ...]] = ("ecnf",)
    measure: ClassVar[str] = "divergence"
    expensive: ClassVar[bool] = True

    direction: DirectionName = "both"
    nodes: Count = 12
    grading: AtLeastOne = 1.0
    clip: Positive = 100.0


@dataclasses.dataclass(frozen=True)
class AugmentedPathGradient(Objective, name="augmented-path-gradient"):
    """Path gradients of the divergence of the joint densities of positions and copies.

    Example:
        >>> bf.AugmentedPathGradient(direction="both").measure
        'divergence'

    Attributes:
        direction: "reverse" (KL(q|p) over flow samples), "forward" (KL(p|q) over reference frames) or "both".
        clip: largest difference of scores, in units of the prior, with which one configuration pulls.
    """

    flows: ClassVar[tuple[str, ...]] = ("eacf",)
    measure: ClassVar[str] = "divergence"
    expensive: ClassVar[bool] = True

    direction: DirectionName = "both"
    clip: Positive = 100.0


@dataclasses.dataclass(frozen=True)
class ReverseKL(Objective, name="reverse-kl"):
    """The reverse Kullback-Leibler divergence, from energies at the flow's own samples alone; modes that it lacks are not found.

    Example:
        >>> bf.ReverseKL(clip=40.0).estimator
        'path-gradient'

    Attributes:
        estimator: "path-gradient" (no variance at the optimum), or "reparametrised" (through the whole map and its density).
        nodes: nodes of the Gauss-Legendre rule along each path.
        grading: exponent that moves these nodes towards the data, as that of the solver gauss-legendre.
        clip: largest pull of one configuration, in units of the prior: the difference of scores, or the force where "reparametrised".
    """

    flows: ClassVar[tuple[str, ...]] = ("ecnf",)
    measure: ClassVar[str] = "divergence"
    expensive: ClassVar[bool] = True

    estimator: EstimatorName = "path-gradient"
    nodes: Count = 12
    grading: AtLeastOne = 1.0
    clip: Positive = 100.0


@dataclasses.dataclass(frozen=True)
class AugmentedReverseKL(Objective, name="augmented-reverse-kl"):
    """The reverse divergence of the joint densities of positions and copies, from energies at the flow's own samples alone.

    Example:
        >>> bf.AugmentedReverseKL(clip=40.0).estimator
        'path-gradient'

    Attributes:
        estimator: "path-gradient" (no variance at the optimum), or "reparametrised" (through the whole map and its density).
        clip: largest pull of one configuration, in units of the prior: the difference of scores, or the force where "reparametrised".
    """

    flows: ClassVar[tuple[str, ...]] = ("eacf",)
    measure: ClassVar[str] = "divergence"
    expensive: ClassVar[bool] = True

    estimator: EstimatorName = "path-gradient"
    clip: Positive = 100.0


@dataclasses.dataclass(frozen=True)
class Cooling(Objective, name="cooling"):
    """From energies alone, rung by rung from a temperature at which chains mix by themselves down to the target's.

    On each rung samples of the flow are weighted for a lower temperature, resampled and moved there, and then learnt from; see
    `docs/energies.md`. No frames are needed.

    Example:
        >>> bf.Cooling(learn=bf.FlowMatching(sigma=0.0), frames=4_000, rung_steps=250).share
        0.5

    Attributes:
        learn: objective by which the frames of a rung are learnt.
        start: what the first rung learns from: "chains" at the hottest temperature; "frames" of the run, taken to be of the target's
            temperature, few of which will do; or nothing, where the "flow" has learnt something before.
        hottest: temperature of the first rung as a multiple of the target's; null: the hottest of the reference sampler's ladder.
        chains: chains of that rung, whose warm-up costs each of them hundreds of steps of Hamiltonian Monte Carlo; null: 32.
        frames: frames of a rung, and samples of the flow that they are made of.
        rung_steps: optimiser steps on each rung.
        share: part of the effective sample size that the step to the next temperature must leave.
        entropy_drop: nats that the entropy may fall by in such a step; null: any.
        moves: steps of Hamiltonian Monte Carlo of each frame at the new temperature; 0 where the energy has no gradient.
        leapfrog: leapfrog steps of each of them.
        trans: keep amide bonds trans; false: cis ones come and go as the moves let them. Chirality is always kept.
        remember: rungs whose frames are learnt from, the present one in half of the steps; more than one needs a flow that knows the
            temperature (flow.tempered).
    """

    learn: Objective = FlowMatching()
    start: StartName = "chains"
    hottest: AtLeastOne | None = None
    chains: Count | None = None
    frames: Count = 10_000
    rung_steps: Count = 500
    share: Share = 0.5
    entropy_drop: Positive | None = None
    moves: CountOrNone = 10
    leapfrog: Count = 5
    trans: bool = False
    remember: Count = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        """What belongs to the chains is theirs alone."""
        for name in ("hottest", "chains"):
            if self.start != "chains" and getattr(self, name) is not None:
                yield name, f"would have no effect: start is {self.start}, which begins at the target's temperature; leave it out"


@dataclasses.dataclass(frozen=True)
class FAB(Objective, name="fab"):
    """Flow annealed importance sampling bootstrap, from energies alone (Midgley, Stimper et al., 2023).

    Draws of the flow are annealed towards p²/q, where its weights are too large, and kept in a buffer of several passes, from which
    all steps learn. A pass takes a batch of draws, and comes after every `updates` steps.

    Example:
        >>> bf.FAB(temperatures=4, capacity=256).estimator
        'likelihood'

    Attributes:
        estimator: "likelihood", as published, or "path-gradient", which needs the forces of the same passes and no others: it has no
            variance at the optimum, and a step takes twice the time.
        temperatures: intermediate densities of the annealing, at each of which every draw is moved once; few for easy targets.
        leapfrog: leapfrog steps of such a move, each a gradient of the energy.
        step_size: of the leapfrog steps before the first pass, in units of the prior; fitted from then on.
        target_acceptance: acceptance that step sizes are fitted to.
        updates: steps between two passes; drawn from the buffer at once.
        capacity: passes that the buffer holds.
        least: passes before the first step.
        clip_ratio: largest factor by which a change of the flow makes a point of the buffer count for more.
        clip: largest pull of one point, in units of the prior; of path gradients.
        collinearity: weight of the penalty against degenerate frames, which there are in three dimensions alone.
    """

    flows: ClassVar[tuple[str, ...]] = ("eacf",)

    estimator: Literal["likelihood", "path-gradient"] = "likelihood"
    temperatures: Count = 8
    leapfrog: Count = 5
    step_size: Positive = 0.1
    target_acceptance: Share = 0.65
    updates: Count = 8
    capacity: Count = 512
    least: Count = 64
    clip_ratio: AtLeastOne = 10.0
    clip: Positive | None = None
    collinearity: NotNegative = 10.0

    @property
    def clipped_at(self) -> float:
        """The largest pull."""
        return 100.0 if self.clip is None else self.clip

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is drawn from the buffer must be there, and what is filled must fit; likelihoods pull nothing."""
        if self.clip is not None and self.estimator != "path-gradient":
            yield "clip", f"would have no effect: it is that of path gradients, and estimator is {self.estimator}; leave it out"
        if self.least > self.capacity:
            yield "least", f"must be at most the {self.capacity} passes that the buffer holds (capacity), got {self.least}"
        elif self.updates > self.least:
            yield (
                "updates",
                f"must be at most the {self.least} passes that are there at first (least), from which all is drawn; got {self.updates}",
            )
