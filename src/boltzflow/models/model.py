"""Trained models: what they are asked."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from boltzflow import display, files, runtime
from boltzflow.analysis.estimate import Estimate, figure_rows
from boltzflow.config import Precision, RunConfig
from boltzflow.errors import ConfigError, DataError, nearest
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.images import log_images
from boltzflow.flows.status import Status
from boltzflow.progress import Wanted
from boltzflow.sampling.enantiomers import right_enantiomer
from boltzflow.sampling.generate import generate, log_density
from boltzflow.sampling.samples import Samples
from boltzflow.targets import Target


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained flow with all that is needed to use it; whatever it is asked, it computes in its own precision.

    Attributes:
        name: name of the shipped model, or folder of the run.
        flow: the flow with its averaged parameters.
        config: the configuration of the run.
        target: the target it was trained for.
        card: how it was made: command, data, time, figures.
        run: folder of the run, None for a shipped model.
    """

    name: str
    flow: AbstractFlow
    config: RunConfig
    target: Target
    card: dict[str, Any]
    run: Path | None = None

    @property
    def precision(self) -> Precision:
        """That of its parameters."""
        return "double" if any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(self._parameters)) else "single"

    def at_temperature(self, temperature: float) -> "Model":
        """The same model at another temperature, its target too; for flows that were trained with flow.tempered.

        Densities and weights are those of the other temperature, and as exact; how far the flow reaches, the effective sample size tells.

        Args:
            temperature: in kelvin; for a target in reduced units as a multiple of its temperature.

        Raises:
            ConfigError: if the flow knows the target's temperature alone.
            TargetError: if the temperature is not positive, or the target has no energy.
        """
        factor = float(temperature) / (self.target.temperature or 1.0)
        target = self.target.at_temperature(factor)
        return dataclasses.replace(self, flow=self.flow.at_temperature(factor), target=target)

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        chunk: int | None = None,
        progress: Wanted = None,
        correct: Literal["none", "metropolis", "smc"] = "none",
        energies: float | None = None,
        shard: tuple[int, int] | None = None,
        devices: int | None = None,
        **settings: Any,
    ) -> Samples:
        """Draws n samples with log q, reduced energy and weight; sample i depends on the seed and on i alone.

        Args:
            n: number of samples; None: as many as `energies` allow.
            seed: of the samples.
            out: file to stream to; what is written stays valid if the process is killed.
            resume: continue the file `out`.
            chunk: samples per compiled call; None: as many as suit the processor.
            progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).
            correct: "smc" weighs, resamples and moves populations at the target, "metropolis" runs chains over its proposals; "none" draws.
            energies: evaluations of the energy that a correction may cost.
            shard: (k, K): only the k-th of K parts of the n samples; see `boltzflow.shards`.
            devices: local devices that draw at the same time; None: all accelerators. The samples do not depend on it.
            settings: other arguments of `sampling.correct.smc` or `sampling.correct.metropolis`.

        Raises:
            ConfigError: if an argument does not apply, or the energies do not suffice for a correction.
            DataError: if n is not positive.
            RunError: if `out` is there already or cannot be written, or holds other samples.
        """
        path = None if out is None else files.named(out)
        options: dict[str, Any] = {"seed": seed, "out": path, "resume": resume, "progress": progress, "model": self.name}
        if correct != "none":
            from boltzflow.sampling.correct import METHODS

            if correct not in METHODS:
                raise ConfigError(f"there is no correction {correct!r}; {nearest(correct, ['none', *METHODS])}")
            given = [name for name, value in (("chunk", chunk), ("shard", shard)) if value is not None]
            if given:
                raise ConfigError(f"a correction has populations or chains, to which {given[0]} does not apply; leave it out.")
            with runtime.precision(self.precision):
                return METHODS[correct](self.flow, self.target, n, energies=energies, devices=devices, **options, **settings)
        if energies is not None or settings or n is None:
            what = ", ".join([*(["energies"] if energies is not None else []), *settings])
            raise ConfigError(
                f"{what} bounds or shapes a correction; name one, or leave it out." if what else "give the number of samples n."
            )
        with runtime.precision(self.precision):
            return generate(self.flow, self.target, n, chunk=chunk, shard=shard, devices=devices, **options)

    def log_prob(self, positions: Any, *, draws: int | None = None, seed: int = 0, progress: Wanted = None) -> Float[np.ndarray, "..."]:
        """Log density of configurations, in nats per unit of length of the target, on the zero-CoM subspace.

        The centre of mass is removed first. Where the flow draws both enantiomers alike and the target means one, the density is the
        folded one, 2 q(x), that samples have, too: a mirror image is given the density of the configuration that counts in its place, and
        other stereoisomers plain q(x).

        A continuous flow's density is exact up to its solver's error, or estimated with `seed` where its divergence is (Hutchinson). That
        of an augmented flow is an estimate: the logarithm of the mean of the importance ratios q(x, a) / pi(a|x) over `draws`
        draws of the copies a, which the seed makes. The mean has no bias; its logarithm is below log q(x) on average.
        `evaluation.Model.densities` tells the error of each, and weights and figures of frames.

        Args:
            positions: (..., N, D) in the target's units, with any leading shape or none.
            draws: of the copies of an augmented flow; None: the flow's own number (`marginal_draws`).
            seed: of the draws, where there are any; those of configuration i depend on the seed and on i alone.
            progress: told how many are done; None: a bar where somebody looks on (`progress.chosen`).

        Returns:
            (...) in float64; NaN, with a warning that says why, where the solver failed.

        Raises:
            DataError: if the positions are no numbers or of another shape, or draws are not positive.
            ConfigError: if draws are given for a flow that takes none.
        """
        if draws is not None and draws < 1:
            raise DataError(f"the number of draws must be at least 1, got {draws}.")
        flow = self.flow if draws is None else self.flow.with_draws(draws)
        shape = (self.target.n_particles, self.target.dimension)
        try:
            given = np.asarray(positions, np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"positions must be numbers of shape (..., {shape[0]}, {shape[1]}), but are none ({error}).") from error
        if given.shape[-2:] != shape:
            raise DataError(
                f"positions of {self.target.name} must have shape (..., {shape[0]}, {shape[1]}), particles and dimensions last, but have "
                f"shape {given.shape}."
            )
        if not given.size:
            return np.empty(given.shape[:-2])
        batch, _, other = right_enantiomer(given.reshape(-1, *shape), flow, self.target)
        # Another number of configurations would be another program to compile; powers of two are few.
        n = len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], 2 ** math.ceil(math.log2(n)) - n, axis=0)]) if n < flow.chunk_size else batch
        with runtime.precision(self.precision):
            solution = log_density(flow, padded, seed=seed, progress=progress)
        status = np.asarray(solution.status)[:n]
        log_q = np.asarray(solution.log_q, np.float64)[:n] + np.where(other, 0.0, log_images(flow, self.target))
        for number in np.unique(status[status != Status.SOLVED]):
            many = int(np.sum(status == number))
            warnings.warn(f"log q of {many} of {n} configurations is NaN: {Status(int(number)).sentence}.", stacklevel=2)
        return np.where(status == Status.SOLVED, log_q, np.nan).reshape(given.shape[:-2])

    def summary(self) -> dict[str, Any]:
        """Key facts, and the figures of the card, as plain values for JSON; None where the card says nothing."""
        return {
            "model": self.name,
            "target": self.config.target,
            "fingerprint": self.target.fingerprint,
            "n_particles": self.target.n_particles,
            "dimension": self.target.dimension,
            "units": self.target.units,
            "flow": self.config.flow.variant,
            "parameters": self.n_parameters,
            "precision": self.precision,
            **self.flow.settings,
            **{name: self.card.get(name) for name in ("description", "steps", "frames", "command", "seconds", "figures")},
        }

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._parameters))

    @functools.cached_property
    def _parameters(self) -> PyTree:
        return eqx.filter(self.flow.network, eqx.is_inexact_array)

    def __repr__(self) -> str:
        """In one line: which flow of which target."""
        return f"<Model {self.name!r}: {self.config.flow.variant} of {self.config.target}, {self.n_parameters:,} parameters>"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, how it was trained, and the figures of its card."""
        figures = self._figures()
        steps, frames = self.card.get("steps"), self.card.get("frames")
        rows: list[display.Row] = [
            ("target", self.config.target),
            ("flow", f"{self.config.flow.variant}, {self.n_parameters:,} parameters, {self.precision} precision"),
            ("log q", ", ".join(f"{key}: {value}" for key, value in self.flow.settings.items())),
            ("trained", f"{steps} steps on {frames} frames" if steps and frames else None),
            ("about", self.card.get("description")),
            *figure_rows(figures, [name for name in _SHOWN if name in figures]),
        ]
        shares = figure_shares(figures)
        picture = display.thumbnail(lambda axes: _draw_shares(axes, shares), "effective sample sizes") if shares else ""
        return display.page(f"Model {self.name}", rows, picture)

    def _figures(self) -> dict[str, Any]:
        """Figures that are known of it."""
        figures = self.card.get("figures")
        return figures if isinstance(figures, dict) else {}


# Figures that are shown in a notebook.
_SHOWN = ("nll", "nll_minus_entropy", "ess_reverse", "ess_forward", "log_z", "pareto_k", "solver_error", "seconds_per_1000")


def figure_shares(figures: Mapping[str, Any]) -> list[tuple[str, Estimate]]:
    """Label and estimate, in per cent, of the effective sample sizes among figures."""
    shown = [name for name in display.SHARES if name not in display.COMPARISON]
    found = [(name, Estimate.from_dict(figures[name]).scaled(100.0)) for name in shown if isinstance(figures.get(name), Mapping)]
    return [(display.LABELS[name].replace(", ", ",\n"), estimate) for name, estimate in found if math.isfinite(estimate.value)]


def _draw_shares(axes: Any, shares: Sequence[tuple[str, Estimate]]) -> None:
    for place, (_, estimate) in enumerate(shares):
        axes.barh(place, estimate.value, height=0.55, color=display.BLUE, alpha=0.45)
        low, high = max(estimate.low, 0.0), min(estimate.high, 100.0)
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [place, place], color=display.INK, linewidth=1.5)
    axes.set(yticks=range(len(shares)), yticklabels=[label for label, _ in shares], xlabel="per cent of the samples")
    axes.set_xlim(left=0.0)
    axes.invert_yaxis()
