"""The training loop: from a configuration to a run folder with a trained model, interruptible at any moment."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from boltzflow import config_io, datasets, files, runtime, seeds
from boltzflow.config import RunConfig
from boltzflow.config_check import check_for_dimension
from boltzflow.datasets import Dataset
from boltzflow.errors import BoltzflowError, ConfigError, RunError, RunInterrupted
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.build import build_flow
from boltzflow.objectives.flow_matching import Batch
from boltzflow.objectives.pairing import PairingInfo
from boltzflow.progress import FractionOf, Progress, Silent
from boltzflow.targets import Target
from boltzflow.targets.molecule_folder import FILES
from boltzflow.training.batches import prefetch
from boltzflow.training.checkpoint import Checkpoints
from boltzflow.training.export import MODEL_FILE, save_model, with_parameters_of
from boltzflow.training.folder import identity, locked, open_folder, record, refinement_identity, require_same_frames, target_of
from boltzflow.training.logging import MetricsLog, versions
from boltzflow.training.parameters import with_parameters
from boltzflow.training.phases import Phase, phases
from boltzflow.training.sharding import data_mesh
from boltzflow.training.state import StepFunction, TrainState, initial_state, place_batch, place_state, refined_from


def train(
    config: RunConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
    target: Target | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """Trains the flow of a configuration and writes everything into the run folder.

    The result depends on the configuration alone: a run that was killed and continued ends bit-identical to one that was not, on the
    same machine.

    Args:
        config: what is trained on what, and how.
        out: the run folder.
        resume: continue the run that the folder holds.
        progress: told loss and step.
        target: the target, if it is not a registered one.
        dataset: the frames, if they are neither generated nor read from `config.data.path`.

    Returns:
        The run folder.

    Raises:
        RunInterrupted: if the run was interrupted; its state is saved.
        RunError: if the folder cannot be written, holds another run or one of other frames, or another process trains in it.
        CheckpointError: if `resume` and no checkpoint can be used, or the model to start from cannot be.
        DataError: if the data cannot be used.
        ConfigError: if an option has a wrong type or value or would have no effect, if batch size, microbatch and devices do not fit
            together, or a density without energy, or without gradients, is to be refined.
    """
    progress = Silent() if progress is None else progress
    folder = files.named(out, "the name of the run folder")
    config = config_io.checked(config, strict=not resume)
    if config.precision == "single" and runtime.in_double():
        progress.message("The run is in double precision, to which this process is set (jax_enable_x64).")
        config = dataclasses.replace(config, precision="double")
    with runtime.precision(config.precision):
        target = target_of(config, folder) if target is None else target
        _check(config, target, resume)
        with locked(folder):
            return _train(config, folder, resume, progress, target, dataset)


def require_named_frames(config: RunConfig, folder: Path, target: Target | None) -> None:
    """Refuses to go on with a run whose file of frames, `data.path`, holds other frames by now; one that is gone is not missed.

    Raises:
        RunError: says which frames the run has.
        DataError: if the file cannot be read.
    """
    path, own = config.data.path, folder / "data.h5"
    if path is None or not Path(path).is_file() or not own.is_file() or Path(path).resolve() == own.resolve():
        return
    target = target_of(config, folder) if target is None else target
    require_same_frames(folder, datasets.frames_in(path, target), f"the frames in {path}")


def _check(config: RunConfig, target: Target, resume: bool) -> None:
    """Finds out before anything is made what would stop the run."""
    training = config.training
    check_for_dimension(config, target.dimension)
    data_mesh(training.devices, training.batch_size, training.microbatch)
    if config.refinement.steps:
        if not target.has_energy:
            raise ConfigError(f"path gradients need an energy, and target {target.name!r} has none; set refinement.steps=0.")
        if not datasets.has_gradient(target):
            raise ConfigError(f"path gradients need forces, and the energy of target {target.name!r} has none; set refinement.steps=0.")
        data_mesh(training.devices, config.refinement.batch_size, config.refinement.microbatch, section="refinement")
    # The bonds that the prior needs, and the like.
    flow = build_flow(config.flow, target, 1.0, key=jax.random.key(0))
    if training.start_from is not None and not resume:
        # Whether the model can be started from is told before the frames are made, which can take long; a run that is continued does not
        # need it any more.
        with_parameters_of(flow, training.start_from)


def _train(config: RunConfig, folder: Path, resume: bool, progress: Progress, target: Target, dataset: Dataset | None) -> Path:
    """`train` in a folder that is this process's own."""
    training = config.training
    mesh = data_mesh(training.devices, training.batch_size, training.microbatch)
    there = open_folder(folder, config, target, resume, dataset)
    try:
        frames, reference_seconds = _data(config, target, folder, dataset, progress)
        train_set, validation_set = frames.split(validation=config.data.validation, seed=config.data.split_seed)
    except BoltzflowError:
        # The folder is free again for a run with better data.
        for name in {"config.yaml", "versions.json", "data.h5", *FILES} - there:
            (folder / name).unlink(missing_ok=True)
        raise

    scale = _scale(config, target, train_set)
    flow = build_flow(config.flow, target, scale, key=seeds.key(training.seed))
    state = initial_state(flow.network, training)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=training.keep_checkpoints,
        identity=f"{target.fingerprint}; {identity(config)}",
        # The end of flow matching: refinements begin there.
        keep_step=training.steps,
    )
    found = checkpoints.restore(state, progress.message) if resume else None
    meta: dict[str, Any] = {"seconds": 0.0, "losses": [], "costs": []}
    if found is not None:
        state, meta = found
    elif training.start_from is not None:
        state = initial_state(with_parameters_of(flow, training.start_from).network, training)
    first, last = int(state.step), training.steps + config.refinement.steps
    if first > training.steps and meta.get("refinement") != refinement_identity(config):
        raise RunError(f"the run in {folder} was refined with other options; choose another folder.")
    record(folder, config, target)
    state = place_state(state, mesh)
    log = MetricsLog(folder, keep_until=first, tensorboard=training.tensorboard)
    losses, costs = list(meta["losses"]), list(meta["costs"])
    began = time.perf_counter() - meta["seconds"]
    matching, refining = phases(config, flow, target, train_set.positions / scale, mesh)

    def save(state: TrainState) -> None:
        meta = {"seconds": time.perf_counter() - began, "losses": losses, "costs": costs, "refinement": refinement_identity(config)}
        checkpoints.save(int(state.step), state, meta)

    def due(step: int) -> bool:
        """Whether a checkpoint is due; steps of the refinement are dear."""
        return step in (training.steps, last) or step % (training.checkpoint_every if step <= training.steps else 10) == 0

    def batches() -> Iterator[tuple[Phase, StepFunction, Batch, PairingInfo | None]]:
        """Batches of both phases with the step that takes them."""
        for phase in (matching, refining):
            begin = max(first, phase.start)
            if begin < phase.stop:
                progress.start(phase.stop, phase.name)
                advance = phase.compile()
                for batch, info in prefetch(phase.prepare, begin, phase.stop):
                    yield phase, advance, batch, info

    with contextlib.closing(checkpoints), contextlib.closing(log), _interruptible() as interrupted:
        for step, (phase, advance, batch, info) in enumerate(batches(), start=first + 1):
            if step == training.steps + 1:
                state = place_state(refined_from(state, flow.network, refining.training), mesh)
                losses.clear()
                costs.clear()
            state, metrics = advance(state, place_batch(batch, mesh))
            loss = float(metrics.loss)
            losses.append(loss)
            if info is not None:
                costs.append(info.cost_after)
            if step % training.log_every == 0 or step in (training.steps, last) or step > training.steps:
                log.write(
                    step=step,
                    **{phase.measure: float(np.mean(losses))},
                    **({"pairing_cost": float(np.mean(costs))} if costs else {}),
                    grad_norm=float(metrics.grad_norm),
                    learning_rate=float(metrics.learning_rate),
                    skipped=int(state.skipped),
                    masked=int(state.masked),
                    seconds=round(time.perf_counter() - began, 3),
                )
                progress.update(step, **{phase.measure: float(np.mean(losses))})
                losses.clear()
                costs.clear()
            if training.evaluate_every and step % training.evaluate_every == 0 and step < last:
                averaged = _averaged(flow, state)
                log.write(step=step, **_periodic_evaluation(averaged, target, validation_set, training.evaluate_n, training.seed))
                _write_model(folder, averaged, config, target, _card(config, frames, reference_seconds, time.perf_counter() - began, step))
            if interrupted.is_set() or due(step):
                save(state)
            if interrupted.is_set() and step < last:
                progress.stop()
                raise RunInterrupted(
                    f"interrupted at step {step} of {last}; the state is saved, continue with `boltzflow resume {folder}`.", interrupted.by
                )
    progress.stop()
    averaged = _averaged(flow, state)
    seconds = time.perf_counter() - began if first < last else meta["seconds"]
    _write_model(folder, averaged, config, target, _card(config, frames, reference_seconds, seconds, last))
    return folder


def _data(config: RunConfig, target: Target, folder: Path, dataset: Dataset | None, progress: Progress) -> tuple[Dataset, float | None]:
    """The frames, and the seconds that making them took (None where they came from outside)."""
    from boltzflow import reference

    own = folder / "data.h5"
    allow = config.data.allow_virial_mismatch
    if not own.is_file():
        if dataset is not None:
            datasets.checked(dataset, target, allow_virial_mismatch=allow).save(own)
        elif config.data.path is not None:
            datasets.load(config.data.path, target, allow_virial_mismatch=allow).save(own)
        else:
            result = reference.sample(target, config.data.n, seed=config.data.seed, progress=FractionOf(progress, "reference data"))
            progress.stop()
            progress.message(result.sentence())
            result.dataset.save_or_rescue(own)
    # Always as it is read back: a resumed run must see the same bits, and reading centres the frames once more.
    frames = datasets.load(own, target, allow_virial_mismatch=allow)
    seconds = frames.provenance.get("seconds")
    return frames, float(seconds) if seconds is not None else None


def _scale(config: RunConfig, target: Target, train_set: Dataset) -> float:
    """One unit of the prior in data units."""
    if config.flow.scale is not None:
        return config.flow.scale
    return 1.0 if target.units == "reduced" else float(np.std(train_set.positions))


def _averaged(flow: AbstractFlow, state: TrainState) -> AbstractFlow:
    """The flow with the averaged parameters on one device."""
    return flow.with_network(with_parameters(flow.network, jax.device_put(np.asarray(state.average))))


def _periodic_evaluation(flow: AbstractFlow, target: Target, validation: Dataset, n: int, seed: int) -> dict[str, Any]:
    """NLL of validation frames and reverse ESS, from few samples."""
    from boltzflow.analysis import metrics, weights
    from boltzflow.sampling.generate import generate, log_density
    from boltzflow.sampling.hands import log_images

    result: dict[str, Any] = {}
    if target.has_energy:
        # Without an energy all weights are equal, which says nothing.
        result["ess_reverse"] = weights.reverse_ess(generate(flow, target, n, seed=seed).log_weight).as_dict()
    if validation.n:
        solution = log_density(flow, validation.positions[:n])
        log_q = np.asarray(solution.log_q, np.float64) + log_images(flow, target)
        log_q = log_q[(np.asarray(solution.status) == 0) & np.isfinite(log_q)]
        if len(log_q):
            result["validation_nll"] = metrics.mean(-log_q).as_dict()
    return result


def _card(config: RunConfig, frames: Dataset, reference_seconds: float | None, seconds: float, step: int) -> dict[str, Any]:
    return {
        "description": config.description,
        "steps": step,
        "frames": frames.n,
        "data": {key: value for key, value in frames.provenance.items() if isinstance(value, str | int | float)},
        "seconds": {"reference": reference_seconds, "training": round(seconds, 1)},
        "versions": versions(),
    }


def _write_model(folder: Path, flow: AbstractFlow, config: RunConfig, target: Target, card: dict[str, Any]) -> None:
    try:
        save_model(folder / MODEL_FILE, flow, config, target, card)
    except OSError as error:
        raise RunError(f"the model cannot be written to {folder}: {files.reason(error)}; the checkpoints are kept.") from error


class _Interruption(threading.Event):
    """Set when the run is to end; `by` is the number of the signal."""

    by: int = signal.SIGINT


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interruption]:
    """Turns Ctrl-C and SIGTERM into an event while the block runs, so that a step is finished and saved before the process ends.

    A second signal is handled as it was before: Ctrl-C raises at once.
    """
    event = _Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, _: Any) -> None:
        event.by = number
        event.set()
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
