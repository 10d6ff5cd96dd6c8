"""The model that people get: all that `models.Model` does, and its own evaluation."""

import dataclasses
import os
from typing import Any

from boltzflow import datasets, models, runtime
from boltzflow.analysis.tica import Tica
from boltzflow.datasets import Dataset
from boltzflow.evaluation.figures import evaluate
from boltzflow.models.model import precision_of
from boltzflow.progress import Wanted
from boltzflow.targets import Target


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(models.Model):
    """A trained flow with its target and card: draws samples, gives densities, and measures itself. Attributes as `models.Model`."""

    def evaluate(
        self,
        n: int = 10_000,
        *,
        seed: int = 0,
        frames: Dataset | Any = None,
        dynamics: Dataset | Tica | None = None,
        progress: Wanted = None,
    ) -> dict[str, Any]:
        """The figures of `boltzflow evaluate --json`: NLL, ESS both ways, log Z, the scorecard, path length, times.

        Each comes with n and an interval.

        Args:
            n: samples to draw, and the most frames to use.
            seed: seed of samples and bootstrap.
            frames: held-out frames, as `datasets.of` takes them; None: the validation frames of the model's run, or reference frames made
                anew.
            dynamics: frames of `reference.molecular_dynamics`, or what `evaluation.slow_modes.fit` made of them, for `tica_w2`.
            progress: told what is being done; None: a bar where somebody looks on (`progress.chosen`).

        Raises:
            DataError: if n is not positive, the frames or the dynamics belong to another target, or the dynamics is not in the order of
                time.
        """
        with runtime.precision(self.precision):
            dataset = None if frames is None else datasets.of(frames, self.target)
            return evaluate(self, n, seed=seed, frames=dataset, dynamics=dynamics, progress=progress)


def load_model(name: str | os.PathLike[str], *, target: Target | None = None) -> Model:
    """Loads a model as `models.load_model` does, with its arguments and errors, in the precision it was trained in."""
    with runtime.precision(precision_of(name)):
        loaded = models.load_model(name, target=target)
    return Model(**{field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)})
