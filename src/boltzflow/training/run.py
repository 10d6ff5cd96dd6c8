"""A run as an object, and `fit`, which makes one from Python."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from boltzflow.config import DataConfig, FamilyName, FlowConfig, ObjectiveConfig, RunConfig, TrainingConfig
from boltzflow.datasets import Dataset
from boltzflow.progress import Progress
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target, name_of
from boltzflow.training.export import Model, load_model
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
        """Draws n samples with log q, reduced energy and weight; sample i depends on the seed and on i alone."""
        from boltzflow.sampling.generate import generate

        path = None if out is None else Path(out)
        return generate(self.model.flow, self.model.target, n, seed=seed, out=path, progress=progress, model=str(self.folder))

    def evaluate(
        self, n: int = 10_000, *, seed: int = 0, frames: Dataset | None = None, progress: Progress | None = None
    ) -> dict[str, Any]:
        """The figures of `boltzflow evaluate --json`."""
        from boltzflow.sampling.evaluate import evaluate

        return evaluate(self.model, frames, n, seed, progress=progress)

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Writes the HTML report."""
        from boltzflow import report

        return report.write(self.folder, Path(out) if out is not None else self.folder / "report.html")


def fit(
    target: Target,
    data: Dataset | Any,
    *,
    flow: FamilyName | FlowConfig = "ecnf",
    objective: ObjectiveConfig | None = None,
    training: TrainingConfig | None = None,
    out: str | os.PathLike[str],
    validation: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Trains a flow on frames of a target.

    Args:
        target: the target, registered or not.
        data: the frames: a `Dataset`, or the result of `reference.sample`.
        flow: "ecnf" or "eacf", or the full configuration of the flow.
        objective: what is minimised; default: flow matching for a continuous flow, maximum likelihood for a coupling flow.
        training: optimiser and loop; default `TrainingConfig()`.
        out: the run folder.
        validation: frames held out; default a tenth, at most 10 000.
        resume: continue the run that the folder holds.
        progress: told loss and step.

    Raises:
        BoltzflowError: see `boltzflow.training.loop.train`.
    """
    target.check_energy()
    dataset = data if isinstance(data, Dataset) else data.dataset
    held_out = min(10_000, dataset.n // 10) if validation is None else validation
    config = RunConfig(
        target=name_of(target) or target.name,
        data=DataConfig(n=dataset.n, validation=held_out),
        flow=flow if isinstance(flow, FlowConfig) else FlowConfig(family=flow),
        objective=ObjectiveConfig() if objective is None else objective,
        training=TrainingConfig() if training is None else training,
    )
    folder = train(config, out, resume=resume, progress=progress, target=target, dataset=dataset)
    return Run(folder, load_model(folder, target=target))
