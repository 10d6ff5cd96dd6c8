"""The stages of a run: each an objective, an optimiser and a number of steps, done one after the other."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from boltzflow import cluster, config, seeds
from boltzflow.errors import RunError
from boltzflow.flows.base import AbstractFlow
from boltzflow.objectives.base import AbstractObjective, Proposal, Renewal, Setting
from boltzflow.objectives.making import made
from boltzflow.runtime import available_cores
from boltzflow.targets import Target
from boltzflow.training.batches import prefetch
from boltzflow.training.outcome import averaged
from boltzflow.training.parameters import with_parameters
from boltzflow.training.state import (
    StepFunction,
    StepMetrics,
    TrainState,
    initial_state,
    make_step,
    next_state,
    place,
    place_batch,
    place_state,
)

# Steps between two checkpoints of a stage whose steps are expensive.
_EXPENSIVE_CHECKPOINT = 10
# Streams of random keys beside that of the initial parameters.
_INIT, _PROPOSE = 1, 2


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage of a run, with what it needs.

    Attributes:
        index: its number.
        stage: its options.
        objective: what is minimised.
        end: steps of the run when it is done.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints.
    """

    index: int
    stage: config.Stage
    objective: AbstractObjective
    end: int
    log_every: int
    checkpoint_every: int

    @property
    def begin(self) -> int:
        """Steps of the run before it."""
        return self.end - self.stage.steps

    @property
    def identity(self) -> str:
        """What a checkpoint of it must agree on to be continued."""
        return identity(self.stage)

    def kept(self) -> PyTree:
        """What its objective keeps, before the first step."""
        return self.objective.init(key=self._key(_INIT, self.index))

    def _key(self, stream: int, number: Any) -> Any:
        return jax.random.fold_in(jax.random.fold_in(seeds.key(self.objective.setting.seed), stream), number)

    def logs(self, step: int) -> bool:
        """Whether the step gets a line of metrics."""
        return step % self.log_every == 0 or step == self.end

    def saves(self, step: int) -> bool:
        """Whether the step gets a checkpoint."""
        renewed = self.objective.interval and (step - self.begin) % self.objective.interval == 0
        return step % self.checkpoint_every == 0 or step == self.end or bool(renewed)

    def steps(
        self,
        state: TrainState,
        network: eqx.Module,
        frames: Float[np.ndarray, "n N D"],
        mesh: jax.sharding.Mesh,
        report: Callable[[str], None],
        asked: Callable[[], int] = lambda: 0,
    ) -> Iterator[tuple[TrainState, StepMetrics, Proposal]]:
        """Does the steps that are left of the stage; yields the state after each, its metrics and what it learnt from.

        Args:
            state: where to begin.
            network: gives the structure of what is trained.
            frames: in units of the prior, in the precision of the network.
            mesh: devices with one axis, "data".
            report: told what people should know, in sentences.
            asked: the signal by which this process was asked to end, 0 for none.
        """
        advance = make_step(network, self.objective, self.stage, mesh, asked)
        frames = frames if self.objective.needs.frames else frames[:0]
        if self.objective.interval:
            yield from self._with_frames_of_its_own(advance, state, frames, mesh, report)
            return
        if self.objective.on_host:
            yield from self._from_host(advance, state, frames, self.end, mesh)
            return
        propose, shared = self._proposer(network, mesh), place(frames, mesh)
        for _ in range(int(state.step), self.end):
            proposal = propose(state.parameters, state.objective, shared, state.step)
            state, metrics = advance(state._replace(objective=proposal.state), proposal.batch)
            yield state, metrics, proposal

    def _from_host(
        self, advance: StepFunction, state: TrainState, frames: Any, stop: int, mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[TrainState, StepMetrics, Proposal]]:
        """Steps up to `stop`, their batches made ahead on the host."""
        for proposal in prefetch(lambda step: self.objective.propose((), None, frames, step=step, key=None), int(state.step), stop):
            state, metrics = advance(state, place_batch(proposal.batch, mesh))
            yield state, metrics, proposal

    def _with_frames_of_its_own(
        self,
        advance: StepFunction,
        state: TrainState,
        frames: Float[np.ndarray, "n N D"],
        mesh: jax.sharding.Mesh,
        report: Callable[[str], None],
    ) -> Iterator[tuple[TrainState, StepMetrics, Proposal]]:
        """Renewals of the frames, each followed by steps that learn from them; the first of these steps tells of both."""
        objective, interval = self.objective, self.objective.interval
        while (step := int(state.step)) < self.end:
            done, renewal = step - self.begin, Renewal(())
            if done % interval == 0:
                kept, flow = jax.tree.map(np.asarray, state.objective), averaged(objective.setting.flow, state)
                renewal = objective.renew(kept, flow, frames, step=step, report=report)
                state = state._replace(objective=place(cluster.broadcast(renewal.state), mesh))
            own = objective.frames_in(jax.tree.map(np.asarray, state.objective))
            stop = min(self.begin + (done // interval + 1) * interval, self.end)
            for after, metrics, proposal in self._from_host(advance, state, own, stop, mesh):
                state = after
                if int(after.step) == step + 1:
                    spent = proposal.evaluations + renewal.evaluations
                    proposal = proposal._replace(figures={**proposal.figures, **renewal.figures}, evaluations=spent)
                yield state, metrics, proposal

    def _proposer(self, network: eqx.Module, mesh: jax.sharding.Mesh) -> Any:
        """The compiled `propose` of an objective that looks at the present parameters."""

        def propose(parameters: Any, kept: PyTree, frames: Any, step: Any) -> Proposal:
            return self.objective.propose(kept, with_parameters(network, parameters), frames, step=step, key=self._key(_PROPOSE, step))

        shared = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        make: Any = Proposal
        out = make(_whole(mesh), shared, _whole(mesh), _whole(mesh))
        # What is kept may be large, and nothing looks at the old one afterwards.
        return jax.jit(propose, out_shardings=out, donate_argnums=1)


def _whole(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def identity(stage: config.Stage) -> str:
    """Hash of the options of a stage; only what differs from the defaults counts, so that a new option orphans no run."""
    return hashlib.sha256(json.dumps(config.differences(stage), sort_keys=True).encode()).hexdigest()[:16]


def parts(
    run: config.RunConfig,
    flow: AbstractFlow,
    target: Target,
    mesh: jax.sharding.Mesh,
    log_weight: Float[np.ndarray, " n"] | None = None,
) -> tuple[Part, ...]:
    """The stages of a run.

    Args:
        run: its configuration.
        flow: the flow before the first step.
        target: the target.
        mesh: devices with one axis, "data".
        log_weight: of the frames that train; None where they count alike.

    Raises:
        ConfigError: if an objective cannot work with this flow and target, or would not respect the weights.
    """
    # The processor has nothing else to do while an accelerator trains.
    threads = 1 if jax.default_backend() == "cpu" else max(1, available_cores() - 1)
    found, end = [], 0
    for index, stage in enumerate(run.completed().stages):
        if stage.objective is None:
            raise AssertionError("completed")
        setting = Setting(flow, target, stage.batch_size, run.run.seed, threads, mesh, log_weight)
        objective, end = made(stage.objective, setting), end + stage.steps
        every = (1, _EXPENSIVE_CHECKPOINT) if objective.expensive else (run.run.log_every, run.run.checkpoint_every)
        found.append(Part(index, stage, objective, end, *every))
    return tuple(found)


def begun(part: Part, network: eqx.Module, before: TrainState | None, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first step of a stage: from the averaged parameters of the stage before, else from those of the network."""
    if before is None:
        return place_state(initial_state(network, part.stage, part.kept()), mesh)
    return place_state(next_state(before, network, part.stage, part.kept()), mesh)


def under_way(meta: Mapping[str, Any], done: tuple[Part, ...], folder: Any) -> Part:
    """The stage that a checkpoint was made in.

    Raises:
        RunError: if it, or one before it, has other options by now.
    """
    identities, index = meta["stages"], meta["stage"]
    if index >= len(done):
        raise RunError(
            f"the run in {folder} has come to stage {index} already, and the configuration ends with stage {len(done) - 1}; add the "
            "stages that were done, or choose another folder."
        )
    for number in range(index + 1):
        if identities[number] != done[number].identity:
            raise RunError(
                f"stage {number} of the run in {folder} was begun with other options; only stages that have not begun can be changed. "
                "Choose another folder."
            )
    return done[index]
