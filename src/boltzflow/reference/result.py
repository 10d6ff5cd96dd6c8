"""What a sampler of reference data gives: frames in random orientations, and what tells whether to trust them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow.counting import Evaluations
from boltzflow.datasets import Dataset
from boltzflow.datasets.virial import check_with_energies, memory_of
from boltzflow.errors import DataError, TargetError
from boltzflow.geometry.orthogonal import haar
from boltzflow.reference.diagnostics import bulk_ess, split_r_hat
from boltzflow.targets.base import Target

R_HAT_LIMIT = 1.05
"""R-hat above which chains count as not converged."""

# Effective frames below which R-hat and the rest say little.
_FEW = 50


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceResult:
    """Reference frames with what tells whether to trust them.

    Attributes:
        dataset: the frames; its provenance holds the diagnostics.
        diagnostics: `r_hat` and `ess` (by observable: energy, radius_of_gyration, and of molecules sine and cosine of the torsions about
            bonds that turn), `chains`, `virial` (value, standard_error, expected, ok), `mean_energy`, `mean_energy_error`, `seconds`,
            `converged`. Of the tempering sampler also `acceptance`, `step_sizes` (by temperature), `turn_acceptance` (where bonds turn),
            `swap_rates` (of neighbouring temperatures), `temperatures`, `autocorrelation_sweeps`, `thin`, and `effective_wanted` where an
            effective number was asked for; of molecular dynamics `interval`, `time_step`, `friction`, `equilibration` and `sampled_time`
            (of all chains together), in ps. Of both `energy_evaluations` and `gradient_evaluations`, all that was spent, warm-up and pilot
            too (`counting.Evaluations`). Of a density without energy only `available`, the number of its frames.
    """

    dataset: Dataset
    diagnostics: Mapping[str, Any]

    def sentence(self) -> str:
        """The diagnostics in a few plain sentences, with a warning where the chains have not converged."""
        found = self.diagnostics
        if "available" in found:
            return f"{self.dataset.n} of the {found['available']} frames that this density is known by."
        worst = max(found["r_hat"].values())
        if "temperatures" in found:
            how = f"{found['chains']} chains × {len(found['temperatures'])} temperatures, one frame every {found['thin']} sweeps"
            rates = f", swap rates {min(found['swap_rates'], default=1.0):.2f} or more"
            remedy = "make more frames, or pass `temperatures=` with a hotter or finer ladder"
        else:
            how = f"{found['chains']} chains of molecular dynamics, one frame every {found['interval']:g} ps"
            rates = ""
            remedy = "make more frames with a longer interval between them, or use the tempering sampler, which crosses barriers"
        effective = min(found["ess"].values())
        few = "" if effective >= _FEW else " (too few to judge convergence by)"
        text = (
            f"{self.dataset.n} frames from {how}, in {found['seconds']:.0f} s: R-hat {worst:.3f}, effective sample size "
            f"{effective:.0f}{few}, mean energy {found['mean_energy']:.3f} ± {found['mean_energy_error']:.3f}{rates}. "
            f"{found['virial']['sentence']}"
        )
        if (spent := Evaluations.of_meta(found)) is not None:
            text += f" {spent.sentence()}"
        wanted = found.get("effective_wanted")
        if wanted is not None and not effective >= wanted:
            slow = min(found["ess"], key=lambda name: found["ess"][name])
            text += (
                f" WARNING: the effective sample size of {slow} is {found['ess'][slow]:.0f} where {wanted} were asked for; raise the most "
                "frames that may be made (n, -n)."
            )
        if not found["converged"]:
            text += f" WARNING: the chains have not converged (R-hat {worst:.3f}, limit {R_HAT_LIMIT}); {remedy}."
        return text[:1].upper() + text[1:]


def given_frames(target: Target, n: int, *, seed: int) -> ReferenceResult:
    """Frames of a density that is known by them."""
    if target.frames is None:
        raise TargetError(f"target {target.name!r} has neither an energy to sample nor frames; give it one of them.")
    frames = target.frames()
    chosen = frames[np.random.default_rng(seed).permutation(len(frames))[:n]]
    positions = (chosen - chosen.mean(axis=1, keepdims=True)).astype(np.float32)
    provenance = {"sampler": "frames of the target", "available": len(frames), "n": len(positions), "seed": seed}
    return ReferenceResult(Dataset(positions, target.fingerprint, target.units, provenance), {"available": len(frames)})


def check_numbers(n: int | None, chains: int | None, effective: int | None = None) -> None:
    """Checks the numbers of frames, of chains and of effective frames, if these were given.

    Raises:
        DataError: if one is not positive, or nothing is asked for.
    """
    if n is None and effective is None:
        raise DataError("say how many reference frames to make: n of them, or an effective number of them.")
    if effective is not None and effective < 1:
        raise DataError(f"the effective number of reference frames must be positive, got {effective}.")
    if n is not None and n < 1:
        raise DataError(f"the number of reference frames must be positive, got {n}.")
    if chains is not None and chains < 1:
        raise DataError(f"the number of chains must be positive, got {chains}.")


def judged(observables: Mapping[str, Float[np.ndarray, "C K"]], positions: Float[np.ndarray, "n N D"], target: Target) -> dict[str, Any]:
    """The diagnostics that all samplers have in common.

    Args:
        observables: by name, of C chains with K draws each; "energy" is one of them.
        positions: the frames, for the virial check.
        target: what they were drawn from.

    Returns:
        `r_hat`, `ess`, `virial`, `mean_energy`, `mean_energy_error` and `converged` of `ReferenceResult`, and `frame_energies`, which the
        data set keeps, with the `evaluations` that they took.
    """
    check, energies = check_with_energies(positions, target)
    r_hat, draws = convergence(observables)
    # Of the frames, which may be fewer than the draws; where draws alternate about the mean they are worth more than their number.
    ess = {name: min(value, float(len(positions))) for name, value in draws.items()}
    energy = observables["energy"]
    return {
        "r_hat": r_hat,
        "ess": ess,
        # As data sets keep it (`datasets.loading.MEMORY`), so that it is not checked again.
        "virial": {
            **{name: value for name, value in dataclasses.asdict(check).items() if value is not None},
            "sentence": check.sentence(),
            "memory": memory_of(positions, target.fingerprint, check),
        },
        "frame_energies": energies,
        "evaluations": Evaluations(energies=len(positions)) if check.left_out else Evaluations(gradients=len(positions)),
        "mean_energy": float(energy.mean()),
        "mean_energy_error": float(energy.std() / math.sqrt(min(draws["energy"], float(energy.size)))),
        "converged": all(value <= R_HAT_LIMIT for value in r_hat.values()) and check.ok,
    }


def convergence(observables: Mapping[str, Float[np.ndarray, "C K"]]) -> tuple[dict[str, float], dict[str, float]]:
    """Split R-hat and bulk effective sample size of each observable of C chains with K draws."""
    return (
        {name: split_r_hat(values) for name, values in observables.items()},
        {name: bulk_ess(values) for name, values in observables.items()},
    )


def chain_by_chain(draws: int, chains: int, n: int) -> np.ndarray:
    """Which n frames to keep of (draws, chains), and in which order.

    Chain by chain, so that blocks of consecutive frames see the correlation within chains; the last draws that are too many go.
    """
    order = np.arange(draws * chains).reshape(draws, chains).T.ravel()
    return order[order < n]


def apply_symmetries(
    positions: Float[np.ndarray, "n N D"], target: Target, *, generator: np.random.Generator
) -> Float[np.ndarray, "n N D"]:
    """Moves every frame by a random symmetry of the target: rotation, reflection where that is one, permutation within the classes."""
    n, _, dimension = positions.shape
    turns = haar(generator, n, dimension, determinant=None if target.reflections else 1.0)
    classes = np.asarray(target.classes)
    order = np.argsort(classes[None, :] + generator.random((n, len(classes))), axis=1)
    permutation = np.empty_like(order)
    permutation[:, np.argsort(classes, kind="stable")] = order
    moved = np.take_along_axis(positions, permutation[:, :, None], axis=1) @ turns
    return (moved - moved.mean(axis=1, keepdims=True)).astype(np.float32)


def provenance(
    sampler: str, packages: Sequence[str], device: str, diagnostics: Mapping[str, Any], *, seed: int, n: int
) -> dict[str, str | float | int]:
    """The diagnostics and what made the frames, as a data set keeps them."""
    flat: dict[str, str | float | int] = {
        "sampler": sampler,
        "seed": seed,
        "n": n,
        "versions": ", ".join(f"{package} {metadata.version(package)}" for package in packages),
        "device": device,
    }
    for name, value in diagnostics.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}_{inner}": item for inner, item in value.items()})
        elif isinstance(value, list):
            flat[name] = ", ".join(f"{item:.4g}" for item in value)
        else:
            flat[name] = value
    return flat
