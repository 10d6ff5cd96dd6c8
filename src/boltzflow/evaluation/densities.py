"""What a model says of frames that a user brings: log q and weight of each, and how well the model fits them."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from boltzflow import files, seeds
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import ConfigError, DataError, RunError
from boltzflow.evaluation.figures import CHECKED
from boltzflow.evaluation.frames import (
    Judged,
    count_figures,
    draw_figures,
    forward_figures,
    judged,
    likelihood_figures,
    mean_square_root,
    solver_differences,
)
from boltzflow.evaluation.scorecard import scorecard
from boltzflow.flows.identity import identity
from boltzflow.flows.images import log_images
from boltzflow.models.model import Model
from boltzflow.models.remote import ratio_farm
from boltzflow.models.versions import versions
from boltzflow.progress import Progress, Wanted, told
from boltzflow.sampling.generate import generate
from boltzflow.sampling.sample_file import plain

FORMAT = "boltzflow log q of frames"
ENDINGS = (".h5", ".hdf5", ".npz", ".csv")
"""Of files that hold the columns."""


@dataclasses.dataclass(frozen=True, eq=False)
class Densities:
    """What a model says of each of some frames, in their order, and of all together.

    Example:
        >>> found = model.densities(data)
        >>> found.log_q.shape, found.log_weight.shape
        ((64,), (64,))

    Attributes:
        log_q: (n,) log density in nats on the zero-CoM subspace, as `Model.log_prob` gives it; NaN where the solver failed.
        log_q_error: (n,) what is known of its error, in nats. Of an augmented flow, whose log q is the logarithm of a mean over draws of
            the copies, its standard error by their scatter; of a continuous flow the difference from a finer solver, NaN where it was not
            looked at.
        u: (n,) reduced energies U/kT; NaN where there is none.
        log_weight: (n,) -u - log q; -inf where one of both is not finite, NaN where the target has no energy.
        figures: the keys of `boltzflow log-prob --json`; see `densities`.
    """

    log_q: Float[np.ndarray, " n"]
    log_q_error: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]
    log_weight: Float[np.ndarray, " n"]
    figures: Mapping[str, Any]

    @property
    def columns(self) -> dict[str, Float[np.ndarray, " n"]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in ("log_q", "log_q_error", "u", "log_weight")}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the columns, a row for each frame in the order of the frames, whole or not at all.

        HDF5 and .npz hold an array for each column, and the figures as JSON in "figures" (an attribute, a text); .csv holds the columns.

        Args:
            path: ends in one of `ENDINGS`.

        Raises:
            ConfigError: if it has another ending.
            RunError: if it is there already, or cannot be written.
        """
        path = files.named(path)
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"{path} must end in {' or '.join(ENDINGS)}.")
        if path.exists():
            raise RunError(f"{path} exists already; choose another name, or delete it first.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.writing(path) as part:
                self._write(part, path.suffix.lower())
        except (OSError, RuntimeError) as error:
            raise RunError(f"cannot write {path}: {files.reason(error)}.") from error

    def _write(self, path: Path, ending: str) -> None:
        text = json.dumps(plain(self.figures))
        if ending == ".csv":
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(zip(*(column.tolist() for column in self.columns.values()), strict=True))
            path.write_text(table.getvalue(), encoding="utf-8")
        elif ending == ".npz":
            with path.open("wb") as file:
                columns: dict[str, Any] = {**self.columns, "figures": np.array(text)}
                np.savez(file, **columns)
        else:
            with h5py.File(path, "w") as file:
                file.attrs.update(format=FORMAT, figures=text)
                for name, column in self.columns.items():
                    file.create_dataset(name, data=column)


def densities(
    model: Model,
    frames: Dataset,
    *,
    n: int = 0,
    draws: int | None = None,
    checked: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    executor: Any = None,
    progress: Wanted = None,
) -> Densities:
    """Log q and weight of frames, and how well a model fits them.

    Args:
        model: the trained flow with its target.
        frames: frames of the target, checked (`datasets.load`, `datasets.of`).
        n: samples of the model that the frames are compared with; 0: none.
        draws: of an augmented flow, draws of the copies that log q is averaged over; None: those of the model.
        checked: of a continuous flow, frames whose log q is computed again with a finer solver, spread over all; None: 32.
        chunk: frames per compiled call; None: as many as suit the processor.
        seed: of draws, samples and bootstrap; log q of frame i depends on it and on i alone.
        executor: whose workers compute the densities, as `blackbox.farm.of` takes it; None: this process.
        progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        The columns, and the figures that `evaluate` has of frames: NLL, EUBO, forward ESS, the solver's error, of an augmented flow what
        its draws cost; with n those of the samples, reverse ESS, log Z and the scorecard against these frames. "energies" counts those
        for frames and samples, without the check that frames pass when they are read.

    Raises:
        DataError: if the frames belong to another target, there are none, or a number is not positive.
        ConfigError: if an option does not apply to the flow.
    """
    seed = seeds.checked(seed)
    target = model.target
    if frames.fingerprint != target.fingerprint:
        raise DataError(f"the frames belong to {frames.fingerprint}, but the model to {target.fingerprint}.")
    for name, number, least in (("n", n, 0), ("draws", draws, 1), ("checked", checked, 0), ("chunk", chunk, 1)):
        if number is not None and number < least:
            raise DataError(f"{name} must be at least {least}, got {number}.")
    model = _asked(model, draws, checked)
    ratios = None if executor is None else ratio_farm(model, executor)
    worth = frames.n_effective
    with told(progress) as bar:
        seen = judged(model.flow, target, frames, seed=seed, worth=worth, stored=True, chunk=chunk, ratios=ratios, progress=bar)
        error, measured = _errors(model, seen, CHECKED if checked is None else checked, bar, seed=seed)
        # Columns are in the order of the frames, but intervals need that of the chains.
        order = frames.in_order_of_chains()
        figures = {**_figures(model, frames[order], seen.taken(order), n, bar, seed=seed), "solver_error": measured}
    if not target.has_energy:
        log_weight = np.full(len(seen.u), math.nan)
    else:
        usable = np.isfinite(seen.u) & np.isfinite(seen.log_q) & ~seen.other
        log_weight = np.where(usable, -np.where(usable, seen.u, 0.0) - np.where(usable, seen.log_q, 0.0), -math.inf)
    return Densities(seen.log_q, error, seen.u, log_weight, figures)


def _asked(model: Model, draws: int | None, checked: int | None) -> Model:
    """The model with as many draws, if the options apply to its flow."""
    if checked is not None and model.flow.finer() is None:
        raise ConfigError("the log q of this flow has no error by a solver that a finer one could show; leave `checked` out.")
    return model if draws is None else dataclasses.replace(model, flow=model.flow.with_draws(draws))


def _errors(
    model: Model, frames: Judged, most: int, progress: Progress, *, seed: int
) -> tuple[Float[np.ndarray, " n"], dict[str, Any] | None]:
    """What is known of the error of log q of each frame, and its root mean square by the solver."""
    error = np.full(len(frames.u), math.nan)
    count = frames.draws.shape[1]
    if count > 1:
        with np.errstate(invalid="ignore", over="ignore"):
            ratios = np.exp(frames.draws - frames.log_q[:, None])
            # Of a logarithm: the relative one.
            error = ratios.std(axis=1, ddof=1) / math.sqrt(count)
        return error, None
    gain = log_images(model.flow, model.target)
    candidates = np.flatnonzero(frames.solved)
    places, differences = solver_differences(
        model.flow, frames.positions, frames.log_q, candidates, gain=gain, most=most, seed=seed, progress=progress
    )
    error[places] = differences
    measured = mean_square_root(differences, seed=seed)
    return error, None if measured is None else measured.as_dict()


def _figures(model: Model, frames: Dataset, seen: Judged, n: int, progress: Progress, *, seed: int) -> dict[str, Any]:
    flow, target = model.flow, model.target
    spent = Evaluations(energies=seen.spent)
    found: dict[str, Any] = {
        "target": model.config.target,
        "model": model.name,
        "frames": frames.n,
        "frames_worth": frames.n_effective,
        "seed": seed,
        **likelihood_figures(seen, target, seed=seed),
        **forward_figures(seen, target, seed=seed),
        **(draw_figures(seen, seed=seed) if flow.noisy_draws else {}),
        **count_figures(seen, target),
        "n": n,
        "energies": {"frames": spent.as_dict(), "sampling": None},
    }
    if n:
        samples = generate(flow, target, n, seed=seeds.after(seed), progress=progress, model=model.name)
        drawn = Evaluations.of_meta(samples.meta)
        found["energies"]["sampling"] = None if drawn is None else drawn.as_dict()
        found |= {
            "ess_reverse": samples.ess(seed=seed).as_dict() if target.has_energy else None,
            "log_z": samples.log_z(seed=seed).as_dict() if target.has_energy else None,
            "failed": samples.n_failed if target.has_energy else samples.n_solver_failed,
            **scorecard(samples, seen.as_frames(frames, target), target, seed=seed, progress=progress),
        }
    return {**found, **identity(flow), "versions": versions()}
