"""A run as an object, and `fit`, which makes one from Python."""

import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import datasets, display, files, runtime, seeds
from boltzflow.analysis.estimate import figure_rows, significant
from boltzflow.analysis.tica import Tica
from boltzflow.config import DataConfig, Flow, Objective, Precision, RunConfig, RunOptions, Stage
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, RunError, nearest
from boltzflow.evaluation.model import Model, load_model
from boltzflow.models.storage import MODEL_FILE
from boltzflow.progress import Wanted, duration
from boltzflow.sampling.sample_file import any_part
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target, molecule_folder, name_of
from boltzflow.training import logging
from boltzflow.training.loop import train


class Run:
    """A run, finished or not, as its folder holds it.

    Attributes:
        folder: the run folder.
        config: its configuration.
    """

    def __init__(self, folder: str | os.PathLike[str], *, target: Target | None = None) -> None:
        """Opens the folder; see `open_run`."""
        self.folder = files.named(folder, "the name of the run folder")
        if not (self.folder / "config.yaml").is_file():
            there = [str(found.parent) for found in self.folder.parent.glob("*/config.yaml")]
            ending = nearest(str(self.folder), there) if there else "begin one with `fit` or `boltzflow train PRESET -o RUN`."
            raise RunError(f"there is no run in {self.folder} (it has no config.yaml); {ending}")
        self.config = config_io.load_config(self.folder / "config.yaml")
        self._target = target

    @functools.cached_property
    def model(self) -> Model:
        """The trained model, in the precision of the run.

        Raises:
            CheckpointError: if there is none yet; says how to go on.
            TargetError: if the target is not registered and was not given.
        """
        return load_model(self.folder, target=self._target)

    @functools.cached_property
    def target(self) -> Target:
        """The target.

        Raises:
            TargetError: if it is not registered and was not given.
        """
        if self._target is not None:
            return self._target
        return molecule_folder.target_of(self.config.target, self.folder, owner=f"the run in {self.folder} is of")

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.config.stages)

    @property
    def finished(self) -> bool:
        """Whether all stages are done."""
        try:
            card = json.loads((self.folder / MODEL_FILE).with_suffix(".json").read_text(encoding="utf-8"))
            return (self.folder / MODEL_FILE).is_file() and int(card["steps"]) >= self.total_steps
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def metrics(self) -> dict[str, Float[np.ndarray, " steps"]]:
        """Columns of metrics.jsonl by name, as far as they are written: "step", "loss", "seconds", ...; NaN where a step has no figure."""
        return logging.columns(self.folder / "metrics.jsonl")

    @property
    def data(self) -> Dataset | None:
        """The frames that it learns from, None where there are none yet."""
        path = self.folder / "data.h5"
        return datasets.read(path) if path.is_file() else None

    @property
    def samples(self) -> Samples | None:
        """The samples in the folder, samples.h5, as far as they are drawn; None where there are none."""
        path = self.folder / "samples.h5"
        return Samples.load(path) if path.is_file() or any_part(path) else None

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The figures that `evaluate` has kept in the folder; None where there are none."""
        try:
            return json.loads((self.folder / "evaluation.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def sample(
        self, n: int, *, seed: int, out: str | os.PathLike[str] | None = None, resume: bool = False, progress: Wanted = None
    ) -> Samples:
        """Draws n samples of the model; see `Model.sample`.

        Args:
            n: number of samples.
            seed: sample i depends on the seed and i alone.
            out: file to stream to; None: memory alone.
            resume: continue that file.
            progress: None: a bar where somebody looks on; False: none.
        """
        return self.model.sample(n, seed=seed, out=out, resume=resume, progress=progress)

    def evaluate(
        self,
        n: int = 10_000,
        *,
        seed: int = 0,
        frames: Dataset | Any = None,
        dynamics: Dataset | Tica | None = None,
        progress: Wanted = None,
    ) -> dict[str, Any]:
        """The figures of the model; see `Model.evaluate`. As on the command line they are kept for the report, unless frames are given.

        Args:
            n: samples to draw, and frames to compare with.
            seed: of the samples and the bootstrap.
            frames: of the target to judge by; None: those that the run held out.
            dynamics: molecular dynamics, or slow modes fitted to them, for TICA-W2; None: without.
            progress: None: a bar where somebody looks on; False: none.
        """
        figures = self.model.evaluate(n, seed=seed, frames=frames, dynamics=dynamics, progress=progress)
        if frames is None:
            try:
                files.replace_json(self.folder / "evaluation.json", figures)
            except OSError as error:
                warnings.warn(f"the figures are not kept in {self.folder} ({files.reason(error)}).", stacklevel=2)
        return figures

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Writes the HTML report.

        Args:
            out: file to write; None: report.html in the folder of the run.
        """
        from boltzflow import report

        return report.write(self.folder, Path(out) if out is not None else self.folder / "report.html")

    def resume(self, *, stages: Sequence[Stage] | None = None, progress: Wanted = None) -> "Run":
        """Goes on with the run where it was interrupted; it ends bit-identical to one that was not.

        Args:
            stages: all its stages, if there are to be more, or those that have not begun are to be others.
            progress: told loss and step; None: a bar where somebody looks on (`progress.chosen`).

        Returns:
            The run as it is then.
        """
        config = self.config if stages is None else dataclasses.replace(self.config, stages=tuple(stages))
        train(config, self.folder, resume=True, progress=progress, target=self.target)
        return Run(self.folder, target=self._target)

    def __repr__(self) -> str:
        """In one line: what is trained on what, and how far it is."""
        return f"<Run {str(self.folder)!r}: {self.config.flow.variant} of {self.config.target}, {self._state()}>"

    def _state(self) -> str:
        if self.finished:
            return f"finished, {self.total_steps} steps"
        steps = self.metrics.get("step", np.empty(0))
        return f"{int(steps[-1]) if steps.size else 0} of {self.total_steps} steps"

    def _repr_html_(self) -> str:
        """For notebooks: what is trained on what, the figures that are known, and the loss against the step."""
        metrics = self.metrics
        measure = next((name for name in ("loss", "divergence") if name in metrics), None)
        latest = metrics[measure][np.isfinite(metrics[measure])] if measure else np.empty(0)
        seconds = metrics.get("seconds", np.empty(0))
        rows: list[display.Row] = [
            ("target", self.config.target),
            ("flow", f"{self.config.flow.variant}, {self.config.precision} precision"),
            ("state", self._state()),
            (
                "stages",
                ", then ".join(
                    f"{stage.steps} of {stage.objective.variant if stage.objective else 'the default'}" for stage in self.config.stages
                ),
            ),
            (f"last {measure}", significant(float(latest[-1]), 4) if latest.size else None),
            ("trained for", duration(float(np.nanmax(seconds))) if np.isfinite(seconds).any() else None),
            *figure_rows(self.evaluation or {}, ("nll", "nll_minus_entropy", "ess_reverse", "ess_forward", "log_z")),
        ]
        curves = [(name, metrics["step"], metrics[name]) for name in ("loss", "divergence") if name in metrics]
        picture = display.thumbnail(lambda axes: _draw_loss(axes, curves), "loss against the step") if curves else ""
        return display.page(f"Run {self.folder}", rows, picture)


def _draw_loss(axes: Any, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    shown = []
    for (name, step, values), color in zip(curves, (display.BLUE, display.VERMILION), strict=False):
        good = np.isfinite(values)
        axes.plot(step[good], values[good], color=color, linewidth=1.0, marker="o" if good.sum() < 30 else None, markersize=2, label=name)
        shown.append(values[good])
    values = np.concatenate(shown)
    if values.size and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    elif values.size:
        # The first few steps are far above the rest and would flatten it.
        low, high = np.quantile(values, [0.0, 0.98])
        axes.set_ylim(low - 0.08 * (high - low or 1.0), high + 0.15 * (high - low or 1.0))
    axes.set(xlabel="step", ylabel=curves[0][0] if len(curves) == 1 else "")
    if len(curves) > 1:
        axes.legend()


def open_run(folder: str | os.PathLike[str], *, target: Target | None = None) -> Run:
    """Opens a run from its folder, finished or not.

    Args:
        folder: the run folder.
        target: the target, if it is not a registered one.

    Raises:
        RunError: if there is no run; says what there is instead.
        ConfigError: if its configuration is damaged, or names a plug-in that is missing.
    """
    return Run(folder, target=target)


def fit(
    target: Target,
    data: Dataset | Any,
    *,
    flow: str | Flow = "ecnf",
    stages: Sequence[Stage] | None = None,
    objective: Objective | None = None,
    options: RunOptions | None = None,
    out: str | os.PathLike[str],
    validation: int | None = None,
    precision: Precision | None = None,
    allow_virial_mismatch: bool = False,
    resume: bool = False,
    progress: Wanted = None,
) -> Run:
    """Trains a flow on frames of a target.

    Args:
        target: the target, registered or not.
        data: the frames: a `Dataset`, the result of `reference.sample`, the name of a file, an array (n, N, D) in the target's units, or an
            MDTraj trajectory; see `datasets.of`.
        flow: "ecnf" or "eacf", or the options of the flow.
        stages: what is done one after the other; default: one stage with what the flow is made for.
        objective: what is minimised, for one stage with the default optimiser; instead of `stages`.
        options: seed, devices, and how often is logged and saved; default `RunOptions()`.
        out: the run folder.
        validation: frames held out; default a tenth, at most 10 000.
        precision: "single" or "double", of the training and of what the run is asked for later; default: that of this process.
        allow_virial_mismatch: use frames that fail the virial check, such as few frames of one basin from which cooling starts.
        resume: continue the run that the folder holds, with more stages if there are more now; the frames must be those that it was begun
            with.
        progress: told loss and step; None: a bar where somebody looks on (`progress.chosen`).

    Raises:
        ConfigError: if both stages and an objective are given.
        BoltzflowError: see `boltzflow.training.loop.train`.
    """
    if stages is not None and objective is not None:
        raise ConfigError("give stages or an objective, not both; each stage has an objective of its own.")
    # Words and numbers first: the check of the frames can take long.
    config = RunConfig(
        target=name_of(target) or target.name,
        data=DataConfig(n=2, validation=0 if validation is None else min(seeds.checked(validation, "validation"), 1)),
        flow=Flow.named(flow)() if isinstance(flow, str) else flow,
        stages=(Stage(objective=objective),) if stages is None else tuple(stages),
        run=RunOptions() if options is None else options,
        precision=("double" if runtime.in_double() else "single") if precision is None else precision,
    )
    config_io.checked(config, strict=not resume)
    with runtime.precision(config.precision):
        target.check_energy()
        dataset = datasets.of(data, target, allow_virial_mismatch=allow_virial_mismatch)
    held_out = min(10_000, dataset.n // 10) if validation is None else validation
    used = DataConfig(n=max(1, dataset.n), validation=held_out, allow_virial_mismatch=allow_virial_mismatch)
    config = dataclasses.replace(config, data=used)
    return Run(train(config, out, resume=resume, progress=progress, target=target, dataset=dataset), target=target)
