"""The figures that published tables print: distances of samples from reference frames, each with its floor.

As they are drawn ("raw"), and with their weights ("reweighted"). A distance between two sets of samples of one density is not 0: it is the
floor, which depends on their sizes, so that no figure here is to be read without it. Values are plain distances as the field prints them;
the interval is that of the distance of the densities, and holds 0 where there is no difference (`analysis.transport`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from boltzflow import seeds
from boltzflow.analysis import correlation, internal_coordinates, metrics, pooled, transport
from boltzflow.analysis.correlation import Correlation
from boltzflow.analysis.distances import Distance
from boltzflow.analysis.observables import pair_distances, radius_of_gyration
from boltzflow.analysis.tica import Tica
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.evaluation import slow_modes
from boltzflow.flows.status import Status
from boltzflow.progress import Wanted, told
from boltzflow.runtime import available_cores
from boltzflow.sampling.enantiomers import energies
from boltzflow.sampling.samples import Samples
from boltzflow.targets.base import Target

RAW, REWEIGHTED = "raw", "reweighted"
KEYS = ("e_w2", "distance_w2", "t_w2", "tica_w2", "aligned_w2", "ramachandran_tv")
"""The figures, each of raw and of reweighted samples."""

RAMACHANDRAN_BINS = 36
"""Along phi and psi: 10 degrees each."""

# Configurations whose pair distances are looked at; more of those that have weights, of which few may count.
_MOST_CONFIGURATIONS, _MOST_WEIGHTED = 4_000, 10_000
# Configurations that are aligned with one another: each pair of them costs about N^2.5.
_MOST_ALIGNED, _ALIGNED_PARTICLES = 500, 5_000
_LEAST = 4
_NO_BACKBONE = "the target has no backbone torsions"
_NO_DYNAMICS = "no molecular dynamics to fit TICA on was given (--dynamics FILE)"


@dataclasses.dataclass(frozen=True, eq=False)
class _Set:
    """Samples of which a figure is made.

    Attributes:
        positions: (n, N, D).
        u: (n,) reduced energies; NaN where there are none.
        log_w: (n,) log-weights; None for samples that count alike.
        grouping: what they are worth, in their order; None where they are independent.
        note: what is to be known of all figures, in words.
        missing: why there are no figures, in words.
    """

    positions: Float[np.ndarray, "n N D"]
    u: Float[np.ndarray, " n"]
    log_w: Float[np.ndarray, " n"] | None
    grouping: Correlation | None = None
    note: str = ""
    missing: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Frames:
    """Reference frames in the order of their chains; attributes as `_Set`, and `worth`, the most independent ones they are worth."""

    positions: Float[np.ndarray, "m N D"]
    u: Float[np.ndarray, " m"]
    worth: float | None

    def grouping(self, *series: Float[np.ndarray, " m"]) -> Correlation | None:
        """What they are worth by some quantities of theirs."""
        moving = [values for values in series if np.isfinite(values).all()]
        return correlation.of_series(*moving, at_most=self.worth) if moving else None


def scorecard(
    samples: Samples,
    frames: Dataset,
    target: Target,
    *,
    seed: int,
    dynamics: Dataset | Tica | None = None,
    most: int = transport.MOST,
    progress: Wanted = None,
) -> dict[str, Any]:
    """Distances of samples from reference frames.

    - `e_w2`: of reduced energies, in kT.
    - `distance_w2`: of all pair distances, in the target's units.
    - `t_w2`: of all backbone torsions on the flat torus, in radians, by exact transport.
    - `tica_w2`: in the two slowest coordinates of molecular dynamics, by exact transport.
    - `aligned_w2`: of configurations of particles, in the target's units (summed over particles), with distances that are least over
      rotations, permutations within the classes, and reflections where they are symmetries.
    - `ramachandran_tv`: total variation over bins of phi and psi; of several residues the mean over them.

    Args:
        samples: samples of a flow, corrected or not; their log-weights are used as they are.
        frames: reference frames of the target; energies are computed where they are not there. Frames that do not count alike are drawn by
            their weights.
        target: the target of both.
        seed: seed of bootstraps and of what is taken where not all is.
        dynamics: frames of `reference.molecular_dynamics`, on which TICA is fitted, or what `slow_modes.fit` gave.
        most: samples and frames that an exact transport takes.
        progress: told how far it is; None: a bar where somebody looks on (`progress.chosen`).

    Returns:
        For each of `KEYS` the figures "raw" and "reweighted": `Distance.as_dict` without "seen", its value the plain distance. Where one
        does not apply its value is None and its note says why.

    Raises:
        DataError: if samples, frames or dynamics are of another target, there are no frames, or the dynamics is not in the order of time.
    """
    seed = seeds.checked(seed)
    for what, stated in (("samples", samples.meta.get("fingerprint")), ("frames", frames.fingerprint)):
        if stated != target.fingerprint:
            raise DataError(f"the {what} belong to {stated or 'an unknown target'}, but the model to {target.fingerprint}.")
    model = slow_model(dynamics, target)
    known = _known(frames, target)
    sets = {RAW: _raw(samples), REWEIGHTED: _reweighted(samples)}
    makers: Mapping[str, Callable[[_Set], Distance | str]] = {
        "e_w2": functools.partial(_energies, known, target, seed=seed),
        "distance_w2": functools.partial(_distances, known, seed=seed),
        "t_w2": functools.partial(_torsions, known, slow_modes.backbone_torsions(target), seed=seed, most=most),
        "tica_w2": functools.partial(_slow, known, model, target, seed=seed, most=most),
        "aligned_w2": functools.partial(_aligned, known, target, {}, seed=seed),
        "ramachandran_tv": functools.partial(_ramachandran, known, slow_modes.backbone_torsions(target), seed=seed),
    }
    figures: dict[str, Any] = {}
    with told(progress) as bar:
        bar.start(len(makers), "scorecard")
        for done, (key, make) in enumerate(makers.items()):
            figures[key] = {name: _entry(make, part, known) for name, part in sets.items()}
            bar.update(done + 1)
    return figures


def slow_model(dynamics: Dataset | Tica | None, target: Target) -> Tica | None:
    """What TICA makes of dynamics, or the model that is given.

    Raises:
        DataError: if it is of another target, or see `slow_modes.fit`.
    """
    if isinstance(dynamics, Tica):
        if dynamics.fingerprint != target.fingerprint:
            raise DataError(f"the TICA model belongs to {dynamics.fingerprint}, but the model to {target.fingerprint}.")
        return dynamics
    return None if dynamics is None else slow_modes.fit(dynamics, target)


def _known(frames: Dataset, target: Target) -> _Frames:
    # Weighted ones are drawn by their weights.
    frames = frames.equally_weighted()
    frames = frames.spread(frames.n)
    usable = np.asarray(np.isfinite(frames.positions).all(axis=(1, 2)))
    if not usable.any():
        raise DataError("there are no reference frames to compare the samples with; give some.")
    if not target.has_energy:
        u = np.full(frames.n, math.nan)
    else:
        u = frames.energies if frames.energies is not None else energies(target, frames.positions, usable)
    return _Frames(np.asarray(frames.positions[usable], np.float64), np.asarray(u, np.float64)[usable], frames.n_effective)


def _raw(samples: Samples) -> _Set:
    """Samples that all count alike; failed ones have no place in a distance and are told."""
    there = (samples.status == Status.SOLVED) & np.isfinite(samples.positions).all(axis=(1, 2))
    positions, u = np.asarray(samples.positions[there], np.float64), samples.u[there]
    lost = int(np.sum(~there))
    note = f"{lost} of {samples.n} samples failed and are left out" if lost else ""
    if not there.any():
        return _Set(positions, u, None, missing=f"all {samples.n} samples failed")
    return _Set(positions, u, None, _worth(u, positions), note)


def _reweighted(samples: Samples) -> _Set:
    there = np.isfinite(samples.log_weight) & np.isfinite(samples.positions).all(axis=(1, 2))
    positions, u = np.asarray(samples.positions[there], np.float64), samples.u[there]
    if not samples.has_energy:
        return _Set(positions, u, None, missing="the target has no energy, so that its samples have no weights")
    if not there.any():
        return _Set(positions, u, None, missing="none of the samples has weight")
    return _Set(positions, u, samples.log_weight[there], _worth(u, positions))


def _worth(u: Float[np.ndarray, " n"], positions: Float[np.ndarray, "n N D"]) -> Correlation | None:
    """Draws of a flow are independent, but samples that were corrected may be chains."""
    usable = [values for values in (u, radius_of_gyration(positions)) if np.isfinite(values).all()]
    # Logarithms, for a few that are far out would hide what the others do.
    series = [np.log1p(values - values.min()) for values in usable]
    return correlation.of_series(*series) if series else None


def _entry(make: Callable[[_Set], Distance | str], part: _Set, known: _Frames) -> dict[str, Any]:
    """A figure for JSON, or why there is none."""
    few = min(len(part.positions), len(known.positions) // 2) < _LEAST
    found = part.missing or (f"{_LEAST} samples and {2 * _LEAST} frames are needed at least" if few else make(part))
    if isinstance(found, str):
        return {"value": None, "low": None, "high": None, "n": 0, "floor": None, "note": found}
    notes = "; ".join(text for text in (found.note, part.note) if text)
    fields = dataclasses.replace(found, value=found.seen, low=min(found.low, found.seen), note=notes).as_dict()
    del fields["seen"]
    return fields


def _energies(known: _Frames, target: Target, part: _Set, *, seed: int) -> Distance | str:
    """E-W2."""
    if not target.has_energy:
        return "the target has no energy"
    # A frame or a sample whose energy is not finite costs itself.
    reference = known.u[np.isfinite(known.u)]
    finite = np.isfinite(part.u)
    if not reference.size or not finite.any():
        return "no energy is finite"
    found = transport.on_line(
        part.u[finite],
        reference,
        log_w=None if part.log_w is None else part.log_w[finite],
        grouping=correlation.of_series(reference, at_most=known.worth),
        own_grouping=part.grouping if finite.all() else None,
        seed=seed,
    )
    lost = int(np.sum(~finite))
    left = f"{lost} samples whose energy is not finite are left out" if lost else ""
    return dataclasses.replace(found, note="; ".join(text for text in (found.note, left) if text))


def _distances(known: _Frames, part: _Set, *, seed: int) -> Distance:
    """W2 of pair distances."""
    own = correlation.spread(len(part.positions), _MOST_CONFIGURATIONS if part.log_w is None else _MOST_WEIGHTED, seed=seed)
    reference = pair_distances(known.positions[correlation.spread(len(known.positions), _MOST_CONFIGURATIONS, seed=seed)])
    return pooled.on_line(
        pair_distances(part.positions[own]),
        reference,
        log_w=None if part.log_w is None else part.log_w[own],
        grouping=correlation.of_series(reference.mean(axis=1), reference[:, 0], at_most=known.worth),
        own_grouping=_of_some(part.grouping, len(own)),
        seed=seed,
    )


def _of_some(grouping: Correlation | None, count: int) -> Correlation | None:
    """What samples spread over all are worth."""
    if grouping is None or grouping.blocks is None:
        return None
    return Correlation(count, min(grouping.n_effective, float(count)), min(grouping.blocks, count))


def _torsions(known: _Frames, atoms: np.ndarray, part: _Set, *, seed: int, most: int) -> Distance | str:
    """T-W2."""
    if not len(atoms):
        return _NO_BACKBONE
    own, reference = (internal_coordinates.torsions(positions, atoms) for positions in (part.positions, known.positions))
    grouping = known.grouping(*np.sin(reference).T, *np.cos(reference).T)
    return transport.on_torus(own, reference, log_w=part.log_w, grouping=grouping, own_grouping=part.grouping, seed=seed, most=most)


def _slow(known: _Frames, model: Tica | None, target: Target, part: _Set, *, seed: int, most: int) -> Distance | str:
    """TICA-W2."""
    if model is None:
        return _NO_DYNAMICS if target.elements and target.dimension == 3 else "particles have no slow coordinates that TICA is fitted for"
    own, reference = model.coordinates(part.positions), model.coordinates(known.positions)
    grouping = known.grouping(*reference.T)
    return transport.in_space(own, reference, log_w=part.log_w, grouping=grouping, own_grouping=part.grouping, seed=seed, most=most)


def _aligned(known: _Frames, target: Target, floors: dict[bytes, np.ndarray], part: _Set, *, seed: int) -> Distance | str:
    """W2 of configurations of particles; the costs between frames are kept in `floors`, the same for raw and reweighted."""
    if target.topology is not None or target.elements:
        return "it is made for particles; torsions tell more of a molecule"
    if target.dimension not in (2, 3):
        return "configurations are aligned in two and three dimensions"
    from boltzflow.geometry import matching

    least = functools.partial(
        matching.least_squares, classes=np.asarray(target.classes), reflections=target.reflections, threads=available_cores()
    )

    def of_frames(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        key = a.tobytes() + b.tobytes()
        if key not in floors:
            floors[key] = least(known.positions[a], known.positions[b])
        return floors[key]

    return transport.exact(
        lambda a, b: least(part.positions[a], known.positions[b]),
        of_frames,
        len(part.positions),
        len(known.positions),
        log_w=part.log_w,
        grouping=known.grouping(radius_of_gyration(known.positions), known.u),
        own_grouping=part.grouping,
        seed=seed,
        most=max(_LEAST, min(_MOST_ALIGNED, _ALIGNED_PARTICLES // target.n_particles)),
    )


def _ramachandran(known: _Frames, atoms: np.ndarray, part: _Set, *, seed: int) -> Distance | str:
    """Total variation distance of phi and psi, the mean over residues."""
    if not len(atoms):
        return _NO_BACKBONE
    own, reference = (internal_coordinates.torsions(positions, atoms) for positions in (part.positions, known.positions))
    grouping = known.grouping(*np.sin(reference).T, *np.cos(reference).T)
    residues = len(atoms) // 2
    found = metrics.total_variation_distance(
        _bins(own),
        _bins(reference),
        np.arange(residues * RAMACHANDRAN_BINS**2 + 1) - 0.5,
        log_w_a=part.log_w,
        blocks_a=None if part.grouping is None else part.grouping.blocks,
        blocks_b=None if grouping is None else grouping.blocks,
        seed=seed,
    )
    floor = found.floor if math.isfinite(found.floor) else math.nan
    named = f"over {RAMACHANDRAN_BINS} x {RAMACHANDRAN_BINS} bins" + (f", the mean of {residues} residues" if residues > 1 else "")
    return dataclasses.replace(found, floor=floor, note="; ".join(text for text in (found.note, named) if text))


def _bins(angles: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n r"]:
    """Number of the bin of (phi, psi) of each residue; residues have bins of their own."""
    place = np.minimum(((angles + math.pi) / (2.0 * math.pi) * RAMACHANDRAN_BINS).astype(np.int64), RAMACHANDRAN_BINS - 1)
    phi, psi = place[:, ::2], place[:, 1::2]
    return (phi * RAMACHANDRAN_BINS + psi + np.arange(phi.shape[1]) * RAMACHANDRAN_BINS**2).astype(np.float64)
