"""The model that people get: all that `models.Model` does, and its own evaluation."""

import dataclasses
import os
from typing import Any

from boltzflow import datasets, models, runtime
from boltzflow.analysis.bar import Bar
from boltzflow.analysis.tica import Tica
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError
from boltzflow.evaluation.densities import Densities, densities
from boltzflow.evaluation.figures import evaluate
from boltzflow.models.storage import precision_of
from boltzflow.progress import Wanted, told
from boltzflow.sampling.generate import generate
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model(models.Model):
    """A trained flow with its target and card: draws samples, gives densities, and measures itself. Attributes as `models.Model`.

    Example:
        >>> samples = model.sample(64, seed=0)
        >>> model.target.name, samples.positions.shape
        ('double_well', (64, 4, 2))
    """

    def sample(self, n: int | None = None, *, seed: int, executor: Any = None, progress: Wanted = None, **arguments: Any) -> Samples:
        """Draws samples as `models.Model.sample` does, with its arguments and errors; on workers elsewhere, if there are any.

        Args:
            n: number of samples.
            seed: of the samples.
            executor: "dask://HOST:PORT", "dask-slurm", any `concurrent.futures.Executor`, or what else has a method `submit`; its workers
                draw the chunks, bit by bit as this process would. None: this process.
            progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).
            arguments: other arguments of `models.Model.sample`; with an executor plain samples alone are drawn.

        Raises:
            ConfigError: if an argument does not apply.
            RunError: if the scheduler does not answer or goes, or a worker has another model or other versions.
        """
        if executor is None:
            return super().sample(n, seed=seed, progress=progress, **arguments)
        unfit = set(arguments) - {"out", "resume", "chunk", "shard"}
        if unfit or n is None:
            raise ConfigError(f"with an executor {next(iter(unfit), 'no number of samples')} does not apply; give n, and leave it out.")
        from boltzflow.models.remote import farm

        with runtime.precision(self.precision):
            remote = farm(self, executor, seed=seed)
            return generate(self.flow, self.target, n, seed=seed, model=self.name, remote=remote, progress=progress, **arguments)

    def evaluate(
        self,
        n: int = 10_000,
        *,
        seed: int = 0,
        frames: Dataset | Any = None,
        dynamics: Dataset | Tica | None = None,
        executor: Any = None,
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
            executor: as of `sample`; its workers draw the samples and compute the densities of the frames.
            progress: told what is being done; None: a bar where somebody looks on (`progress.chosen`).

        Raises:
            DataError: if n is not positive, the frames or the dynamics belong to another target, or the dynamics is not in the order of
                time.
            ConfigError: if the executor is none.
            RunError: if the scheduler does not answer or goes, or a worker has another model or other versions.
        """
        with runtime.precision(self.precision):
            dataset = None if frames is None else datasets.of(frames, self.target)
            return evaluate(self, n, seed=seed, frames=dataset, dynamics=dynamics, executor=executor, progress=progress)

    def densities(
        self,
        frames: Dataset | Any,
        *,
        n: int = 0,
        draws: int | None = None,
        checked: int | None = None,
        chunk: int | None = None,
        seed: int = 0,
        executor: Any = None,
        progress: Wanted = None,
    ) -> Densities:
        """Log q and weight of each of some frames, what is known of their error, and how well the model fits them all.

        `log_prob` gives log q of any configurations; these are frames of the target.

        Args:
            frames: as `datasets.of` takes them.
            n: samples of the model that the frames are compared with, by the distances of `evaluation.scorecard`; 0: none.
            draws: of the copies of an augmented flow; None: the flow's own number.
            checked: frames whose log q is computed again with a finer solver, of a continuous flow; None: 32.
            chunk: frames per compiled call; None: as many as suit the processor.
            seed: of draws, samples and bootstrap.
            executor: as of `sample`; its workers compute the densities. None: this process.
            progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).

        Raises:
            DataError: if the frames belong to another target, or a number is not positive.
            ConfigError: if an option does not apply to the flow.
        """
        with runtime.precision(self.precision):
            told = datasets.of(frames, self.target)
            return densities(self, told, n=n, draws=draws, checked=checked, chunk=chunk, seed=seed, executor=executor, progress=progress)

    def bar(self, samples: Samples, frames: Dataset | Any, *, seed: int = 0, progress: Wanted = None) -> Bar:
        """Samples of this model joined with frames of its target, by Bennett's acceptance ratio: log Z, averages, free energies, profiles.

        It does not rest on a few heavy weights, as reweighting the samples alone may.

        Args:
            samples: draws of this model, neither thinned nor corrected; of an augmented flow with one draw of the copies.
            frames: frames of the target, in the order of their chains, as `datasets.of` takes them.
            seed: seed of the bootstrap, and of the copies that an augmented flow draws of the frames.
            progress: told what is being done; None: a bar where somebody looks on (`progress.chosen`).

        Returns:
            What both say; of observables it is told the values of all samples and then those of all frames, in their order.

        Raises:
            DataError: if samples or frames belong to another target or model, the samples have weights of their own, the target has no
                energy, or a frame has no finite energy or log q.
        """
        from boltzflow.evaluation.bennett import joined

        with runtime.precision(self.precision), told(progress) as shown:
            return joined(self.flow, self.target, samples, datasets.of(frames, self.target), seed=seed, progress=shown)


def load_model(name: str | os.PathLike[str], *, target: Target | None = None) -> Model:
    """Loads a model as `models.load_model` does, with its arguments and errors, in the precision it was trained in.

    Example:
        >>> bf.load_model("dw4-eacf").target.name
        'double_well'

    Args:
        name: of a shipped model, or the folder of a run, or a .safetensors file.
        target: a target that no registry knows; None: the model's own by name.
    """
    with runtime.precision(precision_of(name)):
        loaded = models.load_model(name, target=target)
    return Model(**{field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)})
