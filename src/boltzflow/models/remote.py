"""Chunks of samples and densities in a worker: the model is loaded once by its name, known by its hash of weights, and kept compiled."""

import dataclasses
import functools
import socket
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from boltzflow import runtime
from boltzflow.blackbox.farm import of
from boltzflow.config import Precision
from boltzflow.errors import BoltzflowError, ConfigError, RunError
from boltzflow.flows.identity import identity
from boltzflow.models.model import Model
from boltzflow.models.storage import load_model
from boltzflow.sampling.chunk_farm import Farm
from boltzflow.sampling.generate import chunk_of, origin
from boltzflow.sampling.ratios import Piece, RatioFarm
from boltzflow.sampling.samples import Samples


@functools.lru_cache(maxsize=4)
def _loaded(name: str, known: str) -> Model:
    """The model of a name, whose flow must be the one that is known."""
    try:
        model = load_model(name)
    except BoltzflowError as error:
        raise RunError(f"the worker on {socket.gethostname()} cannot load the model {name} ({str(error).rstrip('.')}).") from error
    if identity(model.flow)["identity"] != known:
        raise RunError(f"the worker on {socket.gethostname()} has another model under the name {name}; let all see the same files.")
    return model


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Draws chunks of a model in a worker; what it is told is short enough to go with each chunk.

    Attributes:
        name: of the model, or the folder or file of one, that workers see too.
        identity: hash of the flow (`flows.identity`).
        precision: in which it is computed.
        seed: of the samples.
    """

    name: str
    identity: str
    precision: Precision
    seed: int

    def __call__(self, begin: int, end: int, chunk: int) -> Samples:
        """Samples begin, ..., end - 1, which lie in one chunk.

        Args:
            begin: the first.
            end: the one behind the last.
            chunk: samples per compiled call.

        Raises:
            RunError: if this worker has not the same model; names its host.
        """
        runtime.configure(self.precision)
        with runtime.precision(self.precision):
            model = _loaded(self.name, self.identity)
            meta = origin(model.flow, model.target, self.name, seed=self.seed)
            return chunk_of(model.flow, model.target, (begin, end), chunk, meta, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class Densities:
    """Computes draws of the log densities of chunks of configurations in a worker.

    Attributes:
        name: of the model, or the folder or file of one, that workers see too.
        identity: hash of the flow (`flows.identity`).
        precision: in which it is computed.
        draws: of the copies of an augmented flow, for each configuration; 0 for another flow.
    """

    name: str
    identity: str
    precision: Precision
    draws: int

    def __call__(self, piece: Piece) -> Float[np.ndarray, "m K"]:
        """Draws of a piece.

        Args:
            piece: the configurations.

        Raises:
            RunError: if this worker has not the same model; names its host.
        """
        runtime.configure(self.precision)
        with runtime.precision(self.precision):
            flow = _loaded(self.name, self.identity).flow
            return piece.computed(flow.with_draws(self.draws) if self.draws else flow)


def farm(model: Model, executor: Any, *, seed: int) -> Farm:
    """Workers that draw from a model.

    Args:
        model: a shipped model, or one of a run whose folder workers see too.
        executor: as `blackbox.farm.of` takes it.
        seed: of the samples.

    Raises:
        ConfigError: if it is no executor, or the model is not as its file has it.
        RunError: if the scheduler does not answer, or a worker has not the same versions.
    """
    _require_own_temperature(model)
    return Farm(of(executor), Chunks(model.name, identity(model.flow)["identity"], model.precision, seed))


def ratio_farm(model: Model, executor: Any) -> RatioFarm:
    """Workers that compute the densities of configurations under a model, and average copies.

    Args:
        model: a shipped model, or one of a run whose folder workers see too.
        executor: as `blackbox.farm.of` takes it.

    Raises:
        ConfigError: if it is no executor, or the model is not as its file has it.
        RunError: if the scheduler does not answer, or a worker has not the same versions.
    """
    _require_own_temperature(model)
    draws = model.flow.noisy_draws
    work = Densities(model.name, identity(model.flow)["identity"], model.precision, draws)
    return RatioFarm(of(executor), work, model.flow.chunk_size, draws or 1)


class Workers(NamedTuple):
    """Workers for all that an evaluation of a model needs.

    Attributes:
        samples: draw its samples.
        ratios: compute densities of frames, and average copies.
    """

    samples: Farm
    ratios: RatioFarm


def workers(model: Model, executor: Any, *, seed: int) -> Workers:
    """Workers that draw from a model and compute densities under it.

    Args:
        model: a shipped model, or one of a run whose folder workers see too.
        executor: as `blackbox.farm.of` takes it.
        seed: of the samples.

    Raises:
        ConfigError: if it is no executor, or the model is not as its file has it.
        RunError: if the scheduler does not answer, or a worker has not the same versions.
    """
    # One connection for both.
    shared = of(executor)
    return Workers(farm(model, shared, seed=seed), ratio_farm(model, shared))


def _require_own_temperature(model: Model) -> None:
    """Refuses a model at another temperature than that of its file, which workers load.

    Raises:
        ConfigError: if it is at another.
    """
    if model.card.get("fingerprint", model.target.fingerprint) != model.target.fingerprint:
        raise ConfigError("workers draw at the target's own temperature; leave out the executor or the temperature.")
