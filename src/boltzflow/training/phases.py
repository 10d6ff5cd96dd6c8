"""The phases of a run: flow matching or maximum likelihood, then refinement."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from boltzflow.config import RunConfig, TrainingConfig
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import energy_that_counts
from boltzflow.objectives.augmented_likelihood import AugmentedLikelihood
from boltzflow.objectives.augmented_path_gradient import AugmentedPathGradient
from boltzflow.objectives.flow_matching import Batch, FlowMatching
from boltzflow.objectives.maximum_likelihood import MaximumLikelihood
from boltzflow.objectives.pairing import PairingInfo
from boltzflow.objectives.path_gradient import PathGradient
from boltzflow.runtime import available_cores
from boltzflow.targets import Target
from boltzflow.training.parameters import flat
from boltzflow.training.state import StepFunction, make_step


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps of a run that have an objective in common.

    Attributes:
        name: what the progress bar calls them.
        measure: what the log calls the mean of the objective.
        start: step after which they begin.
        stop: the last of them.
        training: their optimiser and batch sizes.
        prepare: makes the batch of a step on the host; says what the pairing did where there is one.
        compile: makes the function that takes a step.
    """

    name: str
    measure: str
    start: int
    stop: int
    training: TrainingConfig
    prepare: Callable[[int], tuple[Batch, PairingInfo | None]]
    compile: Callable[[], StepFunction]


def _objective(config: RunConfig, flow: AbstractFlow) -> AugmentedLikelihood | FlowMatching | MaximumLikelihood:
    """What the configuration minimises."""
    if isinstance(flow, AugmentedCouplingFlow):
        plain = config.flow.coupling.projection == "none"
        return AugmentedLikelihood(flow, config.objective.collinearity if flow.dimension == 3 else 0.0, turn=plain)
    options = dataclasses.asdict(config.objective)
    if config.objective.method == "maximum-likelihood":
        return MaximumLikelihood(**options)
    return FlowMatching(**options)


def phases(
    config: RunConfig, flow: AbstractFlow, target: Target, frames: Float[np.ndarray, "n N D"], mesh: jax.sharding.Mesh
) -> tuple[Phase, Phase]:
    """Training on frames and its refinement; frames in units of the prior."""
    # Batches are drawn in the precision of the frames.
    frames = np.asarray(frames, flat(flow.network).dtype)
    training, refinement = config.training, config.refinement
    classes = np.asarray(target.classes)
    # Where the flow cannot tell mirror images apart it learns the density of both, and for that one they are a symmetry.
    reflections = target.reflections or flow.mirror_symmetric
    # The processor has nothing else to do while an accelerator trains.
    threads = 1 if jax.default_backend() == "cpu" else max(1, available_cores() - 1)
    objective = _objective(config, flow)
    energy = energy_that_counts(flow, target)
    if isinstance(flow, AugmentedCouplingFlow):
        path_gradient = AugmentedPathGradient(refinement, energy, flow)
    else:
        path_gradient = PathGradient(refinement, energy, flow.scale)
    shared = {field.name: getattr(refinement, field.name) for field in dataclasses.fields(refinement) if hasattr(training, field.name)}
    refining = dataclasses.replace(training, **shared)

    def pairs(step: int) -> tuple[Batch, PairingInfo | None]:
        if isinstance(objective, AugmentedLikelihood):
            batch = objective.prepare(frames, batch_size=training.batch_size, seed=training.seed, step=step, reflections=target.reflections)
            return batch, None
        if isinstance(objective, MaximumLikelihood):
            return objective.prepare(frames, batch_size=training.batch_size, seed=training.seed, step=step), None
        options = {"batch_size": training.batch_size, "seed": training.seed, "step": step}
        return objective.prepare(frames, **options, classes=classes, reflections=reflections, threads=threads)

    end = training.steps
    return (
        Phase("training", "loss", 0, end, training, pairs, lambda: make_step(flow.network, objective, training, mesh)),
        Phase(
            "refinement",
            "divergence",
            end,
            end + refinement.steps,
            refining,
            lambda step: (path_gradient.prepare(frames, seed=training.seed, step=step), None),
            lambda: make_step(flow.network, path_gradient, refining, mesh, begin=end),
        ),
    )
