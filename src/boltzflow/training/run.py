"""A run as an object, and `fit`, which makes one from Python."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boltzflow import datasets, runtime, seeds
from boltzflow.config import DataConfig, Flow, Objective, Precision, RunConfig, RunOptions, Stage
from boltzflow.config import io as config_io
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError
from boltzflow.models.model import Model, load_model
from boltzflow.progress import Progress
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target, name_of
from boltzflow.training.loop import train


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder and its model.

    Attributes:
        folder: the run folder.
        model: the trained model.
    """

    folder: Path
    model: Model

    def sample(self, n: int, *, seed: int, out: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Samples:
        """Draws n samples with log q, reduced energy and weight; sample i depends on the seed and on i alone.

        In the precision of the run.
        """
        from boltzflow.sampling.generate import generate

        path = None if out is None else Path(out)
        with runtime.precision(self.model.config.precision):
            return generate(self.model.flow, self.model.target, n, seed=seed, out=path, progress=progress, model=str(self.folder))

    def evaluate(self, n: int = 10_000, *, seed: int = 0, frames: Dataset | Any = None, progress: Progress | None = None) -> dict[str, Any]:
        """The figures of `boltzflow evaluate --json`, in the precision of the run."""
        from boltzflow.evaluation.evaluate import evaluate

        with runtime.precision(self.model.config.precision):
            dataset = None if frames is None else datasets.of(frames, self.model.target)
            return evaluate(self.model, dataset, n, seed, progress=progress)

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Writes the HTML report."""
        from boltzflow import report

        return report.write(self.folder, Path(out) if out is not None else self.folder / "report.html")


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
    resume: bool = False,
    progress: Progress | None = None,
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
        resume: continue the run that the folder holds, with more stages if there are more now; the frames must be those that it was begun
            with.
        progress: told loss and step.

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
        dataset = datasets.of(data, target)
    held_out = min(10_000, dataset.n // 10) if validation is None else validation
    config = dataclasses.replace(config, data=DataConfig(n=max(1, dataset.n), validation=held_out))
    folder = train(config, out, resume=resume, progress=progress, target=target, dataset=dataset)
    with runtime.precision(config.precision):
        return Run(folder, load_model(folder, target=target))
