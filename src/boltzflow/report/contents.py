"""What a run folder holds, read as far as it is there.

A report is asked for while a run still trains, after it was killed, or before anything was sampled. Each thing that is missing or cannot
be read becomes one sentence in the page instead of an error.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float, Shaped

from boltzflow.datasets import Dataset
from boltzflow.errors import BoltzflowError, DataError, RunError
from boltzflow.report.system import System, describe
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.writer import parts_folder

KNOWN_FILES = ("config.yaml", "metrics.jsonl", "evaluation.json", "samples.h5", "data.h5", "model.json", "versions.json")
MAX_SAMPLES = 20_000
"""Samples and frames that histograms are made of; more would not show."""


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A run folder in memory.

    Attributes:
        folder: the folder.
        config_text: config.yaml as it stands.
        config: config.yaml parsed.
        versions: versions.json.
        card: model.json.
        evaluation: evaluation.json.
        metrics: the lines of metrics.jsonl that carry a loss, in order of their steps.
        evaluations: the lines that carry an evaluation.
        samples: the samples, None if there are none.
        data: reference frames (n, N, D), None if there are none.
        provenance: where the data come from.
        known_energies: reduced energies of the reference frames as they were stored, None where they were not.
        system: particles, units, temperature, atoms and bonds, as far as any file tells them.
        target: the Target of that name, None if it is not registered.
        notes: what is missing, in sentences.
    """

    folder: Path
    config_text: str
    config: dict[str, Any]
    versions: dict[str, Any]
    card: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    samples: Samples | None
    data: Shaped[np.ndarray, "n N D"] | None
    provenance: dict[str, Any]
    known_energies: Float[np.ndarray, " n"] | None
    target: Any
    system: System | None
    notes: list[str]

    @property
    def target_name(self) -> str:
        """Name of the target, as far as any file tells it."""
        name = self.config.get("target") or self.evaluation.get("target") or self.card.get("target")
        return str(name or (self.samples.meta.get("target") if self.samples else None) or "unknown target")

    @property
    def units(self) -> str:
        """Unit of length."""
        stated = self.samples.meta.get("units") if self.samples else None
        return str(self.system.units if self.system is not None else stated or "reduced")

    def shown_frames(self, most: int) -> Shaped[np.ndarray, "m N D"]:
        """Reference frames spread over all of them, in the order of their chains."""
        return self._shown(most).positions

    def _shown(self, most: int) -> Dataset:
        assert self.data is not None
        return Dataset(self.data, "", "", self.provenance, energies=self.known_energies).spread(most)

    @functools.cached_property
    def data_energies(self) -> Float[np.ndarray, " n"] | None:
        """Reduced energies of the reference frames that are shown, None where neither file nor target tells them."""
        if self.known_energies is not None:
            return self._shown(MAX_SAMPLES).energies
        if (
            self.target is None
            or not self.target.has_energy
            or self.data is None
            or self.data.shape[1:] != (self.target.n_particles, self.target.dimension)
        ):
            return None
        frames = self.shown_frames(MAX_SAMPLES)
        chunks = [np.asarray(self.target.energies(frames[start : start + 5000])) for start in range(0, len(frames), 5000)]
        return np.concatenate(chunks).astype(np.float64)


def read(folder: Path) -> Contents:
    """Reads a run folder.

    Raises:
        RunError: if there is no such folder, or it holds none of a run's files.
    """
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}; name the folder that `boltzflow train -o` wrote.")
    if not any((folder / name).exists() for name in KNOWN_FILES) and not parts_folder(folder / "samples.h5").exists():
        raise RunError(f"{folder} is no run folder: it has none of {', '.join(KNOWN_FILES)}.")
    notes: list[str] = []
    config_text = _text(folder / "config.yaml") or ""
    config = _yaml(config_text, notes)
    metrics, evaluations = _metrics(folder / "metrics.jsonl", notes)
    samples = _samples(folder / "samples.h5", notes)
    card = _json(folder / "model.json", notes)
    evaluation = _json(folder / "evaluation.json", notes)
    if not (folder / "evaluation.json").exists():
        notes.append(
            f"The run has not been evaluated yet, so likelihoods and the forward ESS are missing; `boltzflow evaluate {folder}` adds them."
        )
    samples, evaluation = _of_these_weights(folder, samples, evaluation, notes)
    name = config.get("target") or card.get("target") or evaluation.get("target")
    target = _target(folder, name)
    dataset = _data(folder, config, target, notes)
    if target is None and isinstance(name, str):
        unknown = "exact values" if dataset and dataset.energies is not None else "energies of the reference data and exact values"
        notes.append(f"The target {name} is not registered by name and cannot be made again here, so {unknown} are missing.")
    if dataset is not None and dataset.log_weight is not None:
        notes.append(f"The reference data are weighted; as many frames are shown as there are ({dataset.n}), drawn by their weights.")
        dataset = dataset.equally_weighted()
    data, structure = (None, "") if dataset is None else (dataset.positions, dataset.structure)
    meta = samples.meta if samples is not None else {}
    frames = data if data is not None else samples.positions if samples is not None else None
    stated = "" if dataset is None else dataset.fingerprint
    fingerprints = [str(text) for text in (stated, meta.get("fingerprint"), card.get("fingerprint"))]
    system = describe(target, (structure, str(meta.get("structure", ""))), fingerprints, frames)
    return Contents(
        folder=folder,
        config_text=config_text,
        config=config,
        versions=_json(folder / "versions.json", []) or evaluation.get("versions") or {},
        card=card,
        evaluation=evaluation,
        metrics=metrics,
        evaluations=evaluations,
        samples=samples,
        data=data,
        provenance={} if dataset is None else dict(dataset.provenance),
        known_energies=None if dataset is None else dataset.energies,
        target=target,
        system=system,
        notes=notes,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is damaged and is left out; make it again, or delete it.")
        return {}
    return value


def _yaml(text: str, notes: list[str]) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        if text.strip():
            notes.append("config.yaml cannot be read and is shown as it stands.")
        return {}
    return value


def _metrics(path: Path, notes: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines with a loss or a divergence, and lines with an evaluation. A resumed run repeats steps: the last line of a step holds."""
    losses, evaluations = {}, {}
    for line in (_text(path) or "").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last line of a killed run may be torn
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            continue
        if is_number(entry.get("loss")) or is_number(entry.get("divergence")):
            losses[entry["step"]] = entry
        if any(isinstance(entry.get(key), dict) for key in ("validation_nll", "ess_reverse", "nll")):
            evaluations[entry["step"]] = entry
    if not losses:
        notes.append("There is no training history in this folder.")
    return [losses[step] for step in sorted(losses)], [evaluations[step] for step in sorted(evaluations)]


def _samples(path: Path, notes: list[str]) -> Samples | None:
    if not path.exists() and not parts_folder(path).exists():
        notes.append(
            "Nothing has been sampled yet, so energies, distances and weights of the flow are missing; "
            f"`boltzflow sample {path.parent} -n 10000 -o {path}` adds them."
        )
        return None
    try:
        samples = Samples.load(path)
    except BoltzflowError as error:
        notes.append(f"The samples are left out: {error}")
        return None
    if samples.n == 0:
        notes.append("The samples file is empty.")
        return None
    if not path.exists():
        notes.append(f"Sampling was interrupted; this page shows the {samples.n} samples that are there.")
    return samples


def _of_these_weights(
    folder: Path, samples: Samples | None, evaluation: dict[str, Any], notes: list[str]
) -> tuple[Samples | None, dict[str, Any]]:
    """Samples and evaluation without those of other weights than the model's: of an older state of the run, before it was refined say."""
    from boltzflow.models.storage import MODEL_FILE, weights_of

    try:
        weights = weights_of(folder / MODEL_FILE)
    except BoltzflowError as error:
        notes.append(f"Whether samples and evaluation are those of the model cannot be told: {error}")
        return samples, evaluation
    if weights is None:
        return samples, evaluation
    if samples is not None and samples.meta.get("weights", weights) != weights:
        notes.append(
            "The samples are left out: they are of older weights of the model, which was trained or refined since. Delete them, and "
            f"`boltzflow sample {folder} -n {samples.n} -o {folder / 'samples.h5'}` draws new ones."
        )
        samples = None
    if evaluation.get("weights", weights) != weights:
        notes.append(
            "The evaluation is left out: it is of older weights of the model, which was trained or refined since; "
            f"`boltzflow evaluate {folder}` measures it again."
        )
        evaluation = {}
    both = samples is not None and "identity" in samples.meta and "identity" in evaluation
    if samples is not None and both and samples.meta["identity"] != evaluation["identity"]:
        named = [
            f"{key} {evaluation.get(key)} and {samples.meta.get(key)}"
            for key in ("divergence", "solver", "precision")
            if evaluation.get(key) != samples.meta.get(key)
        ]
        notes.append(f"Evaluation and samples were made with different settings ({', '.join(named) or 'of the solver'}).")
    return samples, evaluation


def _target(folder: Path, name: Any) -> Any:
    """The target, None if it cannot be made again."""
    from boltzflow import targets
    from boltzflow.targets import molecule_folder

    try:
        if molecule_folder.holds(folder):
            return molecule_folder.load(folder)
        return targets.get(name) if isinstance(name, str) else None
    except BoltzflowError:
        return None


def _data(folder: Path, config: dict[str, Any], target: Any, notes: list[str]) -> Dataset | None:
    """Reference frames.

    From data.h5, or from where data.json or the configuration say that they lie.
    """
    named = _json(folder / "data.json", []).get("path") or (config.get("data") or {}).get("path")
    for path in (folder / "data.h5", *([Path(named), folder / named] if isinstance(named, str) else [])):
        if not path.is_file():
            continue
        try:
            return _frames(path, target)
        except (BoltzflowError, OSError, KeyError, ValueError) as error:
            notes.append(f"The reference data are left out: {error}")
            return None
    notes.append("The reference data of the run are not at hand, so the flow is shown without them.")
    return None


def _frames(path: Path, target: Any) -> Dataset:
    from boltzflow import datasets

    # The run was trained on these frames; whether they passed the virial check was decided then.
    data = datasets.read(path) if target is None else datasets.load(path, target, allow_virial_mismatch=True)
    if not np.isfinite(data.positions).all():
        raise DataError(f"{path} holds frames with NaN or infinite positions; make it again.")
    return data


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def durations(contents: Contents) -> Iterator[tuple[str, float]]:
    """Yields what took how many seconds, as far as the files tell."""
    stated = contents.evaluation.get("seconds")
    stated = dict(stated) if isinstance(stated, dict) else {}
    if is_number(contents.evaluation.get("seconds_compile")):
        stated.setdefault("compile", contents.evaluation["seconds_compile"])
    seconds = [entry["seconds"] for entry in contents.metrics if is_number(entry.get("seconds"))]
    if seconds:
        stated.setdefault("training", seconds[-1])
    if is_number(contents.provenance.get("seconds")):
        stated.setdefault("reference", contents.provenance["seconds"])
    if contents.samples is not None and is_number(contents.samples.meta.get("seconds")):
        stated.setdefault("sampling", contents.samples.meta["seconds"])
    order = ["reference", "reference_data", "training", "sampling", "evaluation", "compile"]
    for name in sorted(stated, key=lambda name: (order.index(name) if name in order else len(order), name)):
        if is_number(stated[name]):
            yield name, float(stated[name])
