"""The typed configuration of a run: what is trained on what, and how.

Plain dataclasses; `boltzflow.config_io` reads them from YAML and applies overrides.
"""

import dataclasses
from typing import ClassVar, Literal

PairingName = Literal["independent", "optimal-transport", "equivariant-optimal-transport"]
ObjectiveName = Literal["flow-matching", "maximum-likelihood"]
FamilyName = Literal["ecnf", "eacf"]
ProjectionName = Literal["cartesian", "spherical", "vector", "none"]
BaseName = Literal["normal", "harmonic"]
PathName = Literal["linear", "diffusion"]
SolverName = Literal["dopri5", "tsit5", "rk4", "gauss-legendre"]
DivergenceName = Literal["exact", "brute-force", "hutchinson"]
OptimiserName = Literal["adam", "muon"]
Precision = Literal["single", "double"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the frames come from.

    Attributes:
        path: data set file (HDF5, .npy, .npz); None makes reference data with the built-in sampler.
        n: frames to generate where `path` is None.
        seed: seed of the reference sampler.
        validation: frames held out for validation.
        split_seed: seed of the split into training and validation frames.
        allow_virial_mismatch: use data that fail the virial check.
    """

    path: str | None = None
    n: int = 100_000
    seed: int = 0
    validation: int = 10_000
    split_seed: int = 0
    allow_virial_mismatch: bool = False


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """How the flow's ODE is integrated.

    Attributes:
        method: "dopri5" and "tsit5" adapt their step, "rk4" takes `steps` equal steps; all of them carry the divergence through every
            stage. "gauss-legendre" takes Runge-Kutta steps between `steps` nodes, at which alone the divergence is evaluated: several
            times cheaper for the same error.
        rtol: relative tolerance of the adaptive methods.
        atol: absolute tolerance of the adaptive methods, in units of the prior's standard deviation.
        steps: steps of rk4, nodes of gauss-legendre.
        grading: exponent that moves the nodes of gauss-legendre towards the data, where the bonds of molecules take their length and the
            divergence is largest; 1: evenly spread, 1.5 suits molecules.
        max_steps: an adaptive solve that needs more than this has failed.
        divergence: "exact" takes the fastest exact way that the vector field has, "brute-force" takes N·D Jacobian-vector products,
            "hutchinson" is an unbiased estimate of log q (reweighting with it is biased).
        probes: probe vectors of the Hutchinson estimator.
    """

    method: SolverName = "dopri5"
    rtol: float = 1e-4
    atol: float = 1e-4
    steps: int = 20
    grading: float = 1.0
    max_steps: int = 256
    divergence: DivergenceName = "exact"
    probes: int = 1

    def finer(self) -> "SolverConfig":
        """A solver to judge this one by: twice the steps or nodes, a tenth of the tolerances, and the exact divergence."""
        return dataclasses.replace(
            self, rtol=0.1 * self.rtol, atol=0.1 * self.atol, steps=2 * self.steps, max_steps=4 * self.max_steps, divergence="exact"
        )

    def __str__(self) -> str:
        """The method with the settings that matter to it."""
        if self.method == "rk4":
            return f"rk4, {self.steps} steps"
        if self.method == "gauss-legendre":
            return f"gauss-legendre, {self.steps} nodes" + (f", grading {self.grading:g}" if self.grading != 1.0 else "")
        return f"{self.method}, rtol {self.rtol:g}, atol {self.atol:g}"


@dataclasses.dataclass(frozen=True)
class CouplingConfig:
    """The coupling layers of the family "eacf" (Midgley, Stimper et al., 2023).

    The sizes are chosen for CPUs; the presets `lj13-eacf-published` and `qm9-eacf-published` have those of the paper.

    Attributes:
        projection: how a particle is seen by a layer: "cartesian" or "spherical" coordinates in a learned frame, "vector" (distance from
            a learned origin; the only one that cannot tell mirror images apart), or "none", the baseline that is not equivariant.
        blocks: blocks of two coupling layers each.
        augmented: copies of the positions, an odd number.
        noise: standard deviation of the copies around the positions, in units of the prior.
        layers: message-passing layers of each network.
        features: invariant features of a particle.
        width: width of messages and hidden layers.
        radial: Gaussian radial functions of the distance, added to the edge features of the networks; 0: none, as published.
        bins: bins of the splines; 0 (cartesian only): affine functions.
        reach: distance from the origin up to which splines act, in units of the prior.
        mirror: let a spherical frame follow reflections, so that the density is the same for mirror images.
        scaling: scaling layers between the blocks.
        base: density of the latent positions: "normal", or "harmonic" (bonds of the target are springs).
        stiffness: of the springs, in units of the prior.
        marginal_draws: draws of the copies for the density of positions alone.
    """

    projection: ProjectionName = "spherical"
    blocks: int = 8
    augmented: int = 1
    noise: float = 0.3
    layers: int = 2
    features: int = 64
    width: int = 32
    radial: int = 0
    bins: int = 8
    reach: float = 10.0
    mirror: bool = False
    scaling: bool = False
    base: BaseName = "normal"
    stiffness: float = 1.0
    marginal_draws: int = 20


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """The flow and its network.

    Attributes:
        family: "ecnf", the equivariant continuous normalizing flow, which all but `scale` and `coupling` describe, or "eacf", the
            equivariant augmented coupling flow, which these two describe.
        network: "egnn" (Satorras et al., 2021) or "two-interaction" (radial functions, vector and rank-2 neighbour sums).
        layers: message-passing layers of the EGNN; node-wise residual blocks of the two-interaction network.
        hidden: width of the networks.
        attention: gate each message by a learned sigmoid.
        radial: Gaussian radial functions of the distance, added to the edge features of the EGNN (0: none) or used by the two-interaction
            network (at least 1).
        reach: distance, in data units, up to which the radial functions resolve distances; it should exceed the largest one in the data.
        softening: distance, in data units, below which the two-interaction network smooths distances and directions. Particles of the
            prior meet, and there an unsmoothed direction makes the divergence singular and the solver slow; 0: none.
        fine_time: at which ends the two-interaction network resolves time logarithmically: the density takes its shape near the data, and
            near the prior the field of a paired flow decides which way each configuration goes.
        channels: vector and rank-2 channels (two-interaction).
        typed_pairs: give each pair of particle types a radial function of its own (two-interaction); for molecules, whose bonds are narrow
            and all different.
        cutoff: distance, in data units, beyond which particles do not see each other; None: all see all.
        scale: length in data units that is one unit of the prior; None: the data's standard deviation per coordinate if the units are
            nm, else 1.
        solver: integration of the flow's ODE.
        coupling: the coupling layers.
    """

    family: FamilyName = "ecnf"
    network: Literal["egnn", "two-interaction"] = "egnn"
    layers: int = 3
    hidden: int = 32
    attention: bool = True
    radial: int = 0
    reach: float = 6.0
    softening: float = 0.0
    fine_time: Literal["data", "both"] = "data"
    channels: int = 16
    typed_pairs: bool = False
    cutoff: float | None = None
    scale: float | None = None
    solver: SolverConfig = SolverConfig()
    coupling: CouplingConfig = CouplingConfig()


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: flow matching (Klein, Krämer and Noé, 2023), or the negative log-likelihood.

    Attributes:
        method: "flow-matching", or "maximum-likelihood". For a continuous flow the latter goes through the ODE, many times dearer a step;
            it uses `nodes` and `divergence` alone, and flow matching the other options. A coupling flow has maximum likelihood only,
            with `collinearity`. None: what the family is made for.
        path: "linear", or "diffusion" for the variance-preserving diffusion path, whose flow is the probability flow of a diffusion model
            where the pairing is independent.
        pairing: which prior sample is matched with which data sample.
        full_cost: for the equivariant pairing, minimise over all B×B pairs as published; False aligns pairs that the batch assignment has
            already matched.
        sigma: standard deviation of the noise around the path, in units of the prior.
        late_time: share of the times that are drawn near t = 1, where the fine structure of the density is decided; 0: uniform times.
        nodes: nodes of the Gauss-Legendre transport of maximum likelihood.
        divergence: divergence of maximum likelihood; "hutchinson" takes one probe vector for each frame.
        collinearity: weight of the penalty against degenerate frames of a coupling flow in three dimensions.
    """

    method: ObjectiveName | None = None
    path: PathName = "linear"
    pairing: PairingName = "equivariant-optimal-transport"
    full_cost: bool = False
    sigma: float = 0.01
    late_time: float = 0.0
    nodes: int = 10
    divergence: DivergenceName = "exact"
    collinearity: float = 10.0


@dataclasses.dataclass(frozen=True)
class RefinementConfig:
    """Path-gradient refinement after flow matching or maximum likelihood; it starts from the averaged parameters.

    Attributes:
        steps: optimiser steps; 0: no refinement.
        divergence: "reverse" (KL(q|p) over flow samples), "forward" (KL(p|q) over reference frames) or "both".
        batch_size: prior samples, and as many frames, per step.
        microbatch: configurations per chunk of the gradient accumulation.
        nodes: nodes of the Gauss-Legendre rule along each path of a continuous flow.
        grading: of these nodes, as that of the solver.
        learning_rate: peak learning rate.
        final_learning_rate: learning rate at the end of the cosine schedule.
        warmup_steps: linear warm-up.
        ema_decay: decay of the exponential moving average of the parameters.
        clip: largest difference of scores, in units of the prior, with which one configuration pulls.
    """

    steps: int = 0
    divergence: Literal["reverse", "forward", "both"] = "both"
    batch_size: int = 64
    microbatch: int = 16
    nodes: int = 12
    grading: float = 1.0
    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 10
    ema_decay: float = 0.95
    clip: float = 100.0


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The optimiser and the loop.

    Attributes:
        start_from: model (name, run folder or file) whose parameters training starts from; it may be of another target if its network has
            the same options. None: fresh parameters.
        steps: optimiser steps.
        batch_size: pairs per step.
        microbatch: pairs per chunk of the gradient accumulation; small chunks stay in the processor's cache.
        optimiser: "adam", or "muon", which orthogonalises the steps of all weights.
        learning_rate: peak learning rate.
        final_learning_rate: learning rate at the end of the cosine schedule.
        warmup_steps: linear warm-up.
        weight_decay: decay of the weights, apart from the gradient; biases do not decay. 0: none.
        clip_norm: global gradient norm above which a step is scaled down.
        clip_median: scale a step down, too, to this many times the median norm of the last 100; None: no such limit.
        skip_median: leave out a step whose norm is more than this many times that median; None: no such limit.
        ema_decay: decay of the exponential moving average of the parameters; the average is what samples.
        seed: seed of everything that is random in training, from 0 to 2^64 - 1.
        devices: devices that share each batch; 0: all there are.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: checkpoints that are kept.
        evaluate_every: steps between two evaluations (NLL and reverse ESS) during training; 0: never.
        evaluate_n: samples of a periodic evaluation.
        tensorboard: also write TensorBoard event files (extra `tracking`).
    """

    start_from: str | None = None
    steps: int = 10_000
    batch_size: int = 256
    microbatch: int = 32
    optimiser: OptimiserName = "adam"
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 200
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    clip_median: float | None = None
    skip_median: float | None = None
    ema_decay: float = 0.999
    seed: int = 0
    devices: int = 1
    log_every: int = 100
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 3
    evaluate_every: int = 0
    evaluate_n: int = 500
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run.

    Attributes:
        target: name of a registered target.
        data: the frames.
        flow: the flow.
        objective: what is minimised.
        training: the optimiser and the loop.
        refinement: what follows on the training.
        precision: "single" or "double".
        description: a sentence for `boltzflow presets`.
    """

    # Read by pydantic when a configuration is validated: no unknown options, no conversion of types; holds for the parts too.
    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    target: str
    data: DataConfig = DataConfig()
    flow: FlowConfig = FlowConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    refinement: RefinementConfig = RefinementConfig()
    precision: Precision = "single"
    description: str = ""
