"""What comes out of a run: its model and card, and evaluations on the way."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from boltzflow import files
from boltzflow.config import RunConfig
from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.errors import RunError
from boltzflow.flows.base import AbstractFlow
from boltzflow.flows.status import Status
from boltzflow.models.storage import MODEL_FILE, save_model
from boltzflow.models.versions import versions
from boltzflow.targets import Target
from boltzflow.training.frames import Frames
from boltzflow.training.parameters import with_parameters
from boltzflow.training.state import TrainState


def averaged(flow: AbstractFlow, state: TrainState) -> AbstractFlow:
    """The flow with the averaged parameters on one device."""
    return flow.with_network(with_parameters(flow.network, jax.device_put(np.asarray(state.average))))


def periodic_evaluation(
    flow: AbstractFlow, target: Target, validation: Dataset, n: int, *, seed: int
) -> tuple[dict[str, Any], Evaluations]:
    """NLL of validation frames and reverse ESS, from few samples, and the evaluations of the energy that this took."""
    from boltzflow.analysis import weights
    from boltzflow.evaluation.frames import mean_over
    from boltzflow.sampling.enantiomers import log_images
    from boltzflow.sampling.generate import generate, log_density

    result: dict[str, Any] = {}
    spent: Evaluations | None = None
    if target.has_energy:
        # Without an energy all weights are equal, which says nothing.
        samples = generate(flow, target, n, seed=seed)
        result["ess_reverse"], spent = weights.reverse_ess(samples.log_weight).as_dict(), Evaluations.of_meta(samples.meta)
    if validation.n:
        frames = validation.spread(n, seed=seed)
        solution = log_density(flow, frames.positions)
        log_q = np.asarray(solution.log_q, np.float64) + log_images(flow, target)
        known = (np.asarray(solution.status) == Status.SOLVED) & np.isfinite(log_q)
        log_weight = None if frames.log_weight is None else frames.log_weight[known]
        if known.any() and (log_weight is None or np.isfinite(log_weight).any()):
            result["validation_nll"] = mean_over(-log_q[known], log_weight, worth=None, seed=0).as_dict()
    return result, spent or Evaluations()


def card(config: RunConfig, frames: Frames, seconds: float, step: int, training: Evaluations, watched: Evaluations) -> dict[str, Any]:
    """How a model was made."""
    return {
        "description": config.description,
        "steps": step,
        "frames": frames.all.n,
        "data": {key: value for key, value in frames.all.provenance.items() if isinstance(value, str | int | float)},
        "seconds": {"reference": frames.seconds, "training": round(seconds, 1)},
        "energies": {
            "reference": None if (reference := Evaluations.of_meta(frames.all.provenance)) is None else reference.as_dict(),
            "training": training.as_dict(),
            "evaluation": watched.as_dict(),
        },
        "versions": versions(),
    }


def write_model(folder: Path, flow: AbstractFlow, config: RunConfig, target: Target, card: dict[str, Any]) -> None:
    """Writes the model and its card into the run folder.

    Raises:
        RunError: if they cannot be written.
    """
    try:
        save_model(folder / MODEL_FILE, flow, config, target, card)
    except OSError as error:
        raise RunError(f"the model cannot be written to {folder}: {files.reason(error)}; the checkpoints are kept.") from error
