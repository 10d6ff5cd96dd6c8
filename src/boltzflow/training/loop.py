"""The training loop: from a configuration to a run folder with a trained model, interruptible at any moment."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from boltzflow import cluster, datasets, extras, files, runtime, seeds
from boltzflow.config import RunConfig
from boltzflow.config import io as config_io
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, RunInterrupted
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.build import build_flow
from boltzflow.models.storage import with_parameters_of
from boltzflow.objectives.base import Proposal
from boltzflow.progress import Progress, Wanted, told
from boltzflow.targets import Target
from boltzflow.training import outcome, stages
from boltzflow.training.agreement import agree, shared
from boltzflow.training.checkpoint import Checkpoints
from boltzflow.training.folder import identity, locked, open_folder, record, target_for
from boltzflow.training.frames import Frames, frames_of, nothing_to_read, scale_of
from boltzflow.training.interruption import Interruption, interruptible
from boltzflow.training.logging import MetricsLog
from boltzflow.training.parameters import flat
from boltzflow.training.sharding import data_mesh
from boltzflow.training.state import StepMetrics, TrainState, place_state


def train(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Wanted = None,
    target: Target | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """Trains the flow of a configuration and writes everything into the run folder.

    The result depends on the configuration alone: a run that was killed and continued ends bit-identical to one that was not, on the
    same machine.

    Example:
        >>> config = bf.RunConfig(target="dw4", data=bf.DataConfig(n=0, validation=0), flow=flow, stages=(reverse,))
        >>> folder = bf.train(config, "runs/dw4")
        >>> sorted(file.name for file in folder.glob("*.json*"))[:1]
        ['metrics.jsonl']

    Args:
        config: what is trained on what, and how.
        out: the run folder.
        resume: continue the run that the folder holds; stages that have not begun may be others by now, and more of them.
        progress: told loss and step; None: a bar where somebody looks on (`progress.chosen`).
        target: the target, if it is not a registered one.
        dataset: the frames, if they are neither generated nor read from `config.data.path`.

    Returns:
        The run folder.

    Where this process is one of several (`jax.distributed`), all of them share each batch, and the first one writes; the others need
    neither the folder nor the frames.

    Raises:
        RunInterrupted: if the run was interrupted; its state is saved.
        PeerLost: if another process has gone.
        RunError: if the folder cannot be written, holds another run or one of other frames, or another process trains in it.
        CheckpointError: if `resume` and no checkpoint can be used, or the model to start from cannot be.
        DataError: if the data cannot be used.
        ConfigError: if an option has a wrong type or value or would have no effect, if batch size, microbatch and devices do not fit
            together, or an objective needs an energy, or its gradient, that the target does not have.
    """
    folder = files.named(out, "the name of the run folder")
    config = config_io.checked(config, strict=not resume)
    with told(progress if cluster.chief() else False) as bar:
        if config.precision == "single" and runtime.in_double():
            bar.message("The run is in double precision, to which this process is set (jax_enable_x64).")
            config = dataclasses.replace(config, precision="double")
        with runtime.precision(config.precision):
            if target is None:
                config, target = target_for(config, folder)
            extras.require("train", "training")
            _check(config, target, dataset, resume)
            agree(config, target, dataset)
            with cluster.held(lambda: locked(folder)):
                return _train(config, folder, resume, bar, target, dataset)


def _check(config: RunConfig, target: Target, dataset: Dataset | None, resume: bool) -> None:
    """Finds out before anything is made what would stop the run."""
    meshes = [
        data_mesh(config.run.devices, stage.batch_size, stage.microbatch, section=f"stages.{index}")
        for index, stage in enumerate(config.stages)
    ]
    # The bonds that the prior needs, and the like.
    flow = build_flow(config.flow, target, 1.0, key=jax.random.key(0))
    for part in stages.parts(config, flow, target, meshes[0]):
        if part.objective.needs.frames and nothing_to_read(config, dataset):
            raise ConfigError(
                f"stage {part.index} learns from frames by the objective {part.objective.variant}, and data.n is 0; let some be made "
                "(data.n=100000), name a file of them (data.path), or choose an objective that learns from energies alone."
            )
        if part.objective.needs.gradient and not datasets.has_gradient(target):
            raise ConfigError(
                f"the objective {part.objective.variant} needs forces, and the energy of target {target.name!r} has none; leave stage "
                f"{part.index} out."
            )
    if config.run.start_from is not None and not resume:
        # Whether the model can be started from is told before the frames are made, which can take long; a run that is continued does not
        # need it any more.
        with_parameters_of(flow, config.run.start_from)


def _train(config: RunConfig, folder: Path, resume: bool, progress: Progress, target: Target, dataset: Dataset | None) -> Path:
    """`train` in a folder that is this process's own."""
    mesh = data_mesh(config.run.devices, config.stages[0].batch_size, config.stages[0].microbatch, section="stages.0")

    def accept(data: Dataset) -> None:
        # Objectives refuse weights that they would not respect.
        stages.parts(config, build_flow(config.flow, target, 1.0, key=jax.random.key(0)), target, mesh, data.log_weight)

    def made() -> Frames:
        return frames_of(config, target, folder, dataset, progress, open_folder(folder, config, target, resume, dataset), accept)

    frames, scale = shared(made, lambda frames: scale_of(config, target, frames.train), target)
    flow = build_flow(config.flow, target, scale, key=seeds.key(config.run.seed))
    session = _Session(config, folder, progress, target, flow, frames, mesh)
    with contextlib.closing(session), interruptible() as interrupted:
        state, part = session.restored() if resume else (None, None)
        if state is None and config.run.start_from is not None:
            session.flow = with_parameters_of(flow, config.run.start_from)
        session.open_log(0 if state is None else int(state.step))
        # Batches are drawn in the precision of the frames.
        positions = np.asarray(frames.train.positions / scale, flat(flow.network).dtype)
        for following in session.parts:
            if part is not None and following.index < part.index:
                continue
            if part is None or following.index > part.index:
                # One and the same to the last bit, whatever machines the processes are on.
                state = place_state(cluster.broadcast(stages.begun(following, session.flow.network, state, mesh)), mesh)
            if state is None:
                raise AssertionError("a stage begins with a state")
            if int(state.step) < following.end:
                state = session.do(following, state, positions, interrupted)
        session.finish(state)
    return folder


@dataclasses.dataclass
class _Session:
    """A run while it is under way: what it writes down, and when.

    Attributes:
        config: of the run.
        folder: of the run.
        progress: told loss and step; None: a bar where somebody looks on (`progress.chosen`).
        target: the target.
        flow: the flow before the first step.
        frames: what it learns from.
        mesh: devices that share each batch.
        spent: evaluations of the energy by the stages so far; `watched` by the evaluations on the way.
    """

    config: RunConfig
    folder: Path
    progress: Progress
    target: Target
    flow: AbstractFlow
    frames: Frames
    mesh: jax.sharding.Mesh

    def __post_init__(self) -> None:
        self.parts = stages.parts(self.config, self.flow, self.target, self.mesh, self.frames.train.log_weight)
        run = self.config.run
        self.checkpoints = None
        if cluster.chief():
            self.checkpoints = Checkpoints(
                self.folder / "checkpoints",
                keep=run.keep_checkpoints,
                identity=f"{self.target.fingerprint}; {identity(self.config)}",
                # The ends of stages: others begin there.
                keep_steps=[part.end for part in self.parts],
            )
        self.log: MetricsLog | None = None
        self.seen: dict[str, list[float]] = {}
        self.shown: dict[str, float] = {}
        self.spent, self.watched = Evaluations(), Evaluations()
        self.seconds_before, self.began, self.worked = 0.0, time.perf_counter(), False

    @property
    def last(self) -> int:
        """Steps of the run when all its stages are done."""
        return self.parts[-1].end

    def restored(self) -> tuple[TrainState | None, stages.Part | None]:
        """The state of the newest checkpoint and the stage that it was made in; None where there is no checkpoint."""

        def like(meta: dict[str, Any]) -> TrainState:
            part = stages.under_way(meta, self.parts, self.folder)
            return stages.initial_state(self.flow.network, part.stage, part.kept())

        read: list[TrainState] = []

        def find() -> dict[str, Any] | None:
            found = None if self.checkpoints is None else self.checkpoints.restore(like, self.progress.message)
            read.extend([] if found is None else [found[0]])
            return None if found is None else found[1]

        meta = cluster.first(find)
        if meta is None:
            return None, None
        state = cluster.broadcast(read[0] if read else like(meta))
        self.seconds_before = meta["seconds"]
        self.seen = {name: list(values) for name, values in meta["seen"].items()}
        self.spent, self.watched = (Evaluations(*meta[name]) for name in ("spent", "watched"))
        return place_state(state, self.mesh), self.parts[meta["stage"]]

    def open_log(self, step: int) -> None:
        """Opens the log after a step, and writes down what the run is; from here on the time counts."""

        def begin() -> None:
            record(self.folder, self.config, self.target)
            self.log = MetricsLog(self.folder, keep_until=step, tensorboard=self.config.run.tensorboard)

        cluster.first(begin)
        self.began = time.perf_counter() - self.seconds_before

    def do(self, part: stages.Part, state: TrainState, positions: np.ndarray, interrupted: Interruption) -> TrainState:
        """Does what is left of a stage.

        Raises:
            RunInterrupted: if the run was interrupted; the state is saved.
        """
        self.worked = True
        self.progress.start(part.end, part.objective.variant)
        self.shown = {}

        def asked() -> int:
            return interrupted.by if interrupted.is_set() else 0

        with cluster.watched():
            return self._steps(part, part.steps(state, self.flow.network, positions, self.mesh, self.progress.message, asked), interrupted)

    def _steps(self, part: stages.Part, steps: Iterator[tuple[TrainState, StepMetrics, Proposal]], interrupted: Interruption) -> TrainState:
        """Does the steps of `do`."""
        state = None
        for after, metrics, proposal in steps:
            state, step = after, int(after.step)
            self.spent += Evaluations(*map(int, proposal.evaluations))
            self._note(part, state, metrics, {part.objective.measure: metrics.loss, **proposal.figures})
            every = self.config.run.evaluate_every
            if every and step % every == 0 and step < self.last:
                self._evaluate(state)
            signal = int(metrics.asked) if cluster.joined() else interrupted.by if interrupted.is_set() else 0
            if signal or part.saves(step):
                self._save(part, state)
            if signal and step < self.last:
                self.progress.stop()
                raise RunInterrupted(
                    f"interrupted at step {step} of {self.last}; the state is saved, continue with `boltzflow resume {self.folder}`.",
                    signal,
                )
        if state is None:
            raise AssertionError("a stage that is done has no steps left")
        return state

    def _note(self, part: stages.Part, state: TrainState, metrics: StepMetrics, figures: dict[str, Any]) -> None:
        """Gathers the figures of a step, and writes their means down when it is time."""
        for name, value in figures.items():
            self.seen.setdefault(name, []).append(float(value))
        step = int(state.step)
        if self.log is None or not part.logs(step):
            # The pace is known long before there are figures.
            self.progress.update(step, **self.shown)
            return
        means = {name: float(np.mean(values)) for name, values in self.seen.items()}
        self.log.write(
            step=step,
            **means,
            grad_norm=float(metrics.grad_norm),
            learning_rate=float(metrics.learning_rate),
            skipped=int(state.left_out),
            masked=int(state.masked),
            seconds=round(time.perf_counter() - self.began, 3),
            **({"evaluations": self.spent.total} if self.spent.total else {}),
        )
        self.shown = {part.objective.measure: means[part.objective.measure]}
        self.progress.update(step, **self.shown)
        self.seen = {}

    def _save(self, part: stages.Part, state: TrainState) -> None:
        meta = {
            "seconds": time.perf_counter() - self.began,
            "seen": self.seen,
            "spent": self.spent,
            "watched": self.watched,
            "stage": part.index,
            "stages": [other.identity for other in self.parts],
        }

        def write() -> None:
            if self.checkpoints is not None:
                self.checkpoints.save(int(state.step), state, meta)

        cluster.first(write)

    def _evaluate(self, state: TrainState) -> None:
        """Figures of the model as it is now, from few samples, and the model itself."""

        def judge() -> None:
            run, averaged = self.config.run, outcome.averaged(self.flow, state)
            figures, spent = outcome.periodic_evaluation(averaged, self.target, self.frames.validation, run.evaluate_n, seed=run.seed)
            self.watched += spent
            if self.log is not None:
                self.log.write(step=int(state.step), **figures)
            self._write(averaged, time.perf_counter() - self.began, int(state.step))

        cluster.first(judge)

    def finish(self, state: TrainState | None) -> None:
        """Writes the model."""
        self.progress.stop()
        if state is None:
            raise AssertionError("a run has at least one stage")
        seconds = time.perf_counter() - self.began if self.worked else self.seconds_before
        cluster.first(lambda: self._write(outcome.averaged(self.flow, state), seconds, self.last))
        if self.worked and self.spent.total:
            self.progress.message(f"Training took {self.spent.total:,} evaluations of the energy.")

    def _write(self, flow: AbstractFlow, seconds: float, step: int) -> None:
        card = outcome.card(self.config, self.frames, seconds, step, self.spent, self.watched)
        outcome.write_model(self.folder, flow, self.config, self.target, card)

    def close(self) -> None:
        """Closes what is open."""
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self.log is not None:
            self.log.close()
