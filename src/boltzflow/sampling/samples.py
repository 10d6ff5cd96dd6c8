"""What a flow draws: configurations with their exact probability, energy and weight."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from boltzflow import counting, display, selection
from boltzflow.analysis import free_energy, grouped, metrics, weights
from boltzflow.analysis.estimate import NONE, Estimate, figure_rows
from boltzflow.errors import DataError
from boltzflow.flows.status import Status

FIELDS = {
    "log_q": np.float64,
    "u": np.float64,
    "status": np.int8,
    "nfe": np.int32,
    "path_length": np.float64,
    "log_weight": np.float64,
}
"""The columns beside the positions, with their types in memory and on disk."""

GROUPED = {"group": np.int64, "stay": np.int32}
"""Columns of samples that depend on one another, all zero in others and then not on disk."""

SUMMED = ("seconds", "reflected", "other_stereoisomer", "density_evaluations", "accepted_moves", "tried_moves", *counting.META)
"""Entries of the meta that add up where samples are joined; they tell of the drawing, of which samples that were taken are a part."""

ORIGIN = ("units", "energy", "weights", "divergence", "solver", "precision", "identity")
"""Entries of the meta that must agree where samples are joined, if both sides state them; `draws` and `correction` must agree also where
one does not."""

IN_WORDS = {
    "weights": "the weights of the flow (the model was trained or refined in between)",
    "identity": "the settings of the solver",
    "divergence": "the divergence that log q is computed with",
}


def summed(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that add up, over the metas of what is joined."""
    return {key: sum(meta[key] for meta in metas if key in meta) for key in SUMMED if any(key in meta for meta in metas)}


def difference(stored: Mapping[str, Any], new: Mapping[str, Any], keys: Sequence[str] = ORIGIN) -> str | None:
    """What keeps samples of two metas apart, in words such as "solver (a and b)"; None where nothing does."""
    for key in keys:
        if key in stored and key in new and stored[key] != new[key]:
            return f"{IN_WORDS.get(key, key)} ({stored[key]!s} and {new[key]!s})"
    corrected = [meta.get("correction", "none") for meta in (stored, new)]
    if corrected[0] != corrected[1]:
        return f"the correction ({corrected[0]} and {corrected[1]})"
    draws = [meta.get("draws", 1) for meta in (stored, new)]
    return None if draws[0] == draws[1] else f"the copies that log q is averaged over ({draws[0]} and {draws[1]})"


class _Weighed(NamedTuple):
    """The columns that log-weights belong to, by which a column that was replaced since is noticed."""

    log_weight: Float[np.ndarray, " n"]
    columns: tuple[np.ndarray, ...]
    own: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a flow. Everything that a failed sample lacks may be NaN; its weight is zero and it counts in n.

    A sequence, as a `Dataset` is: `len(samples)`, and `samples[index]` with a whole number, a slice, whole numbers or booleans, which
    always gives `Samples` with all columns; a whole number gives a single one, as iteration does. `np.asarray(samples)` is the positions.

    `dataclasses.replace` with another u or log q computes the weights anew, where they were -u - log q; weights of their own belong to
    the columns that they were made with, and must be replaced together with these.

    Example:
        >>> samples = model.sample(64, seed=0)
        >>> samples.log_weight.shape, samples[:10].n
        ((64,), 10)

    Attributes:
        positions: (n, N, D) configurations with their centre of mass at zero, in the target's units.
        log_q: (n,) log density of the flow on the zero-CoM subspace, in nats.
        u: (n,) reduced energies U/kT of the target.
        status: (n,) `flows.Status` of each: 0 where the solver succeeded.
        nfe: (n,) evaluations of the vector field.
        path_length: (n,) summed lengths of the solver's steps, in the target's units.
        meta: where the samples come from: target, fingerprint, units, model, seed, seconds, ...; `structure` is the PDB file of a molecule.
        log_weight: (n,) log-weights, finite or -inf; None: -u - log q, and -inf where the solver failed or u or log q is not finite (of
            a density without energy 0 where the solver succeeded: they count alike). Samples that are more than draws of the flow,
            thinned ones for instance, have log-weights of their own.
        group: (n,) which samples depend on one another: those of one population or chain have the same number, which no other drawing
            has; 0 for a sample that is independent of all others. Intervals follow from the scatter between the groups.
        stay: (n,) of chains, steps since the flow's last proposal that was taken; 0 in all other samples.
    """

    positions: Shaped[np.ndarray, "n N D"]
    log_q: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]
    status: Int[np.ndarray, " n"]
    nfe: Int[np.ndarray, " n"]
    path_length: Float[np.ndarray, " n"]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log_weight: Float[np.ndarray, " n"] = None  # pyright: ignore[reportAssignmentType]  (an array once made)
    group: Int[np.ndarray, " n"] = None  # pyright: ignore[reportAssignmentType]
    stay: Int[np.ndarray, " n"] = None  # pyright: ignore[reportAssignmentType]
    # Set by __post_init__ alone; fields, so that `dataclasses.replace` hands them on.
    _weighed: _Weighed | None = dataclasses.field(default=None, repr=False)
    _drawings: Mapping[object, Mapping[str, Any]] | None = dataclasses.field(default=None, repr=False)

    # Formats and plots know the samples, not the samples them: `sampling/__init__.py` binds these.
    save: ClassVar[Callable[..., None]]
    load: ClassVar[Callable[..., "Samples"]]
    export: ClassVar[Callable[..., int]]
    plot_energy: ClassVar[Callable[..., Any]]
    plot_weights: ClassVar[Callable[..., Any]]
    plot_ramachandran: ClassVar[Callable[..., Any]]
    view: ClassVar[Callable[..., Any]]
    to_mdtraj: ClassVar[Callable[..., Any]]
    to_ase: ClassVar[Callable[..., list[Any]]]
    reweighted: ClassVar[Callable[..., "Samples"]]

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions)
        if positions.ndim != 3 or not np.issubdtype(positions.dtype, np.floating):
            raise DataError(f"positions must be floats of shape (n, N, D), but are {positions.dtype} of shape {positions.shape}.")
        object.__setattr__(self, "positions", positions)
        for name, dtype in (FIELDS | GROUPED).items():
            given = getattr(self, name)
            if given is None and name == "log_weight":
                continue
            given = np.zeros(len(positions), dtype) if given is None and name in GROUPED else given
            column = np.asarray(given, dtype=dtype)
            if column.shape != positions.shape[:1]:
                raise DataError(f"{name} of {len(positions)} samples must have shape ({len(positions)},), but has shape {column.shape}.")
            object.__setattr__(self, name, column)
        object.__setattr__(self, "meta", dict(self.meta))
        self._weigh()
        # What adds up is kept by drawing, so that parts of one drawing that are joined again do not count it twice.
        drawings = self._drawings
        own = {key: self.meta[key] for key in SUMMED if key in self.meta}
        if drawings is None or summed(list(drawings.values())) != own:
            object.__setattr__(self, "_drawings", {object(): own})

    def _weigh(self) -> None:
        """Sets the log-weights, or checks those that are given."""
        columns, before = (self.u, self.log_q, self.status), self._weighed
        usable = (self.status == Status.SOLVED) & (np.isfinite(self.u) & np.isfinite(self.log_q) if self.has_energy else True)
        plain = np.full(self.n, -np.inf)
        plain[usable] = -self.u[usable] - self.log_q[usable] if self.has_energy else 0.0
        given = self.log_weight
        if before is not None and given is before.log_weight:
            if not before.own:
                given = None
            elif any(a is not b for a, b in zip(columns, before.columns, strict=True)):
                raise DataError(
                    "these samples have weights of their own (they were thinned, for instance), which do not follow from u and log q; "
                    "replace log_weight together with u, log_q or status, or change these before."
                )
        if given is None:
            given = plain
        elif np.isnan(given).any() or np.isposinf(given).any():
            raise DataError("log-weights must be finite, or -inf for a sample without weight; some are NaN or +inf.")
        elif before is None or given is not before.log_weight:
            given = np.where(self.status == Status.SOLVED, given, -np.inf)
        object.__setattr__(self, "log_weight", given)
        object.__setattr__(self, "_weighed", _Weighed(given, columns, not np.array_equal(given, plain)))

    def __repr__(self) -> str:
        """In one line: what was drawn, of what, by what."""
        _, particles, dimension = self.positions.shape
        stated = [f"{key} {self.meta[key]!r}" for key in ("target", "model", "seed") if self.meta.get(key) is not None]
        failed = f", {self.n_failed} without weight" if self.n_failed else ""
        return f"<{', '.join([f'Samples: {self.n} of {particles} particles in {dimension}-D', *stated])}{failed}>"

    @property
    def n(self) -> int:
        """Number of samples, failed ones included."""
        return len(self.positions)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> "Samples":
        """The samples at some indices; see the class.

        Raises:
            IndexError: if there is no such sample, or the index is none.
        """
        return self.take(index)

    def __iter__(self) -> "Iterator[Samples]":
        return (self[index] for index in range(self.n))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.positions, dtype, copy=copy)

    def _repr_html_(self) -> str:
        """For notebooks: what was drawn and how well it covers the target, and energies as drawn and reweighted."""
        rows: list[display.Row] = [
            *(("target", self.meta.get("fingerprint", self.meta.get("target"))), ("model", self.meta.get("model"))),
            ("samples", f"{self.n} of {' × '.join(str(size) for size in self.positions.shape[1:])}"),
            ("without weight", int(np.sum(np.isneginf(self.log_weight))) or None),
        ]
        finite = np.isfinite(self.u)
        if not self.has_energy:
            shown = -self.log_q[np.isfinite(self.log_q)]
            drawn = display.thumbnail(lambda axes: display.likelihoods(axes, shown), "-log q") if shown.size else ""
            return display.page("Samples", rows, drawn)
        if not np.isfinite(self.log_weight).any():
            return display.page("Samples", rows)
        rows += figure_rows({"ess_reverse": self.ess(), "log_z": self.log_z()}, ("ess_reverse", "log_z"))
        rows += [("mean energy / kT, as drawn", *metrics.mean(self.u[finite]).texts())] if finite.any() else []
        rows.append(("mean energy / kT, reweighted", *self.expectation(self.u).texts()))
        rows += [] if self.grouped else [("weights", weights.verdict(self.log_weight).sentence)]
        return display.page("Samples", rows, display.thumbnail(self._energies, "energies as drawn and reweighted"))

    def _energies(self, axes: Any) -> None:
        finite = np.isfinite(self.u)
        display.energies(axes, self.u[finite], np.exp(self.log_weight[finite] - self.log_weight.max()))

    @property
    def has_energy(self) -> bool:
        """Whether the target has an energy, so that there is something to reweight to."""
        return bool(self.meta.get("energy", True))

    @property
    def weights_follow(self) -> bool:
        """Whether the log-weights are those of draws of the flow, -u - log q, and not their own."""
        return self._weighed is not None and not self._weighed.own

    @property
    def grouped(self) -> bool:
        """Whether some samples depend on one another, as those of a population or a chain do."""
        return bool(self.group.any())

    @property
    def n_failed(self) -> int:
        """Samples that failed: the solve did, or the energy or log q is not finite. They have no weight, as other stereoisomers."""
        return int(np.sum(np.isneginf(self.log_weight))) - self.n_other_stereoisomer

    @property
    def n_solver_failed(self) -> int:
        """Samples whose solve failed."""
        return int(np.sum((self.status != Status.SOLVED) & (self.status != Status.OTHER_STEREOISOMER)))

    @property
    def n_other_stereoisomer(self) -> int:
        """Samples that are another stereoisomer than the target; they have no weight."""
        return int(np.sum(self.status == Status.OTHER_STEREOISOMER))

    def ess(self, *, seed: int = 0) -> Estimate:
        """Reverse effective sample size as a fraction of n; see `analysis.weights.reverse_ess`.

        Of samples that depend on one another it is the share of independent ones that give the mean energy with the same noise; see
        `analysis.grouped.effective`.

        Args:
            seed: of the bootstrap.
        """
        self._need_energy()
        if self.grouped:
            return grouped.effective(self.log_weight, self.u, self.group)
        return weights.reverse_ess(self.log_weight, seed=seed)

    def log_z(self, *, seed: int = 0) -> Estimate:
        """Log partition function on the zero-CoM subspace; see `analysis.weights.log_z` (of chains, which do not know it, NaN).

        Args:
            seed: of the bootstrap.
        """
        self._need_energy()
        if self.meta.get("normalised") is False:
            return Estimate(math.nan, -math.inf, math.inf, self.n, NONE, "chains know no log Z; plain and annealed samples do")
        if self.grouped:
            return grouped.log_z(self.log_weight, self.group)
        return weights.log_z(self.log_weight, seed=seed)

    def expectation(
        self, observable: Callable[[Float[np.ndarray, "n N D"]], Any] | Real[np.ndarray, " n"] | Bool[np.ndarray, " n"], *, seed: int = 0
    ) -> Estimate:
        """Expectation of an observable under the target.

        Args:
            observable: maps a batch of positions (n, N, D) to (n,) values; or these values.
            seed: seed of the bootstrap.

        Raises:
            DataError: if the values have another shape or are not finite where a sample has weight.
        """
        values = self._per_sample(observable, "an observable")
        if self.grouped:
            return grouped.expectation(self.log_weight, values, self.group)
        return weights.expectation(self.log_weight, values, seed=seed)

    def free_energy_difference(
        self,
        in_a: Callable[[Float[np.ndarray, "n N D"]], Any] | Bool[np.ndarray, " n"],
        in_b: Callable[[Float[np.ndarray, "n N D"]], Any] | Bool[np.ndarray, " n"],
        *,
        seed: int = 0,
    ) -> Estimate:
        """Free energy of region A above that of region B in kT, -ln(p_A / p_B).

        Args:
            in_a: (n,) booleans, or maps a batch of positions (n, N, D) to them.
            in_b: likewise.
            seed: seed of the bootstrap.
        """
        a, b = self._per_sample(in_a, "a region"), self._per_sample(in_b, "a region")
        if self.grouped:
            return grouped.difference(self.log_weight, a, b, self.group)
        return free_energy.difference(self.log_weight, a, b, seed=seed)

    def _need_energy(self) -> None:
        """Raises DataError where there is nothing to reweight to."""
        if not self.has_energy:
            raise DataError(f"{self.meta.get('target', 'the target')} has no energy, so that its samples have no weights; look at the NLL.")

    def _per_sample(self, function: Any, what: str) -> np.ndarray:
        values = np.asarray(function(self.positions) if callable(function) else function)
        if values.shape != (self.n,):
            raise DataError(
                f"{what} must give one value for each of the {self.n} samples, but gave shape {values.shape}; write it for a batch of "
                "positions (n, N, D), for instance with jax.vmap."
            )
        return values

    def resample(self, n: int, *, seed: int) -> Shaped[np.ndarray, "n N D"]:
        """Equally weighted positions of the target, (n, N, D), drawn with the weights.

        Positions alone: their weights are spent, and using them again would weigh twice.

        Args:
            n: how many.
            seed: of the draw.
        """
        return self.positions[weights.resample_indices(self.log_weight, n, seed=seed)]

    def take(self, indices: Any) -> "Samples":
        """The samples at some indices (a whole number, a slice, whole numbers or booleans).

        Args:
            indices: which.
        """
        indices = selection.rows(indices, self.n)
        columns: dict[str, Any] = {name: getattr(self, name)[indices] for name in FIELDS | GROUPED}
        return Samples(positions=self.positions[indices], **columns, meta=self.meta, _drawings=self._drawings)

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        """Joins samples of one origin; keeps the first one's meta, with what adds up (`SUMMED`) added up once for each drawing.

        Args:
            parts: in the order in which they are joined.

        Raises:
            DataError: if there are none, or they come from different targets, or from flows of different weights or settings.
        """
        if not parts:
            raise DataError("there are no samples to join.")
        first = parts[0].meta.get("fingerprint")
        for part in parts:
            if part.meta.get("fingerprint") != first:
                raise DataError(f"samples of {part.meta.get('fingerprint')} cannot be joined with samples of {first}.")
            if (apart := difference(parts[0].meta, part.meta)) is not None:
                raise DataError(f"samples that differ in {apart} cannot be joined; draw or average them alike, or keep them apart.")
        drawings = {drawing: own for part in parts for drawing, own in (part._drawings or {}).items()}
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS | GROUPED}
        positions = np.concatenate([part.positions for part in parts])
        return Samples(positions=positions, **columns, meta={**parts[0].meta, **summed(list(drawings.values()))}, _drawings=drawings)

    def summary(self, *, seed: int = 0) -> dict[str, Any]:
        """Key figures as plain values for JSON; null where there is nothing to say.

        Args:
            seed: of the bootstrap.
        """
        solved = self.status == Status.SOLVED
        chirality = self.n_other_stereoisomer if "other_stereoisomer" in self.meta or self.n_other_stereoisomer else None
        # The tail of the weights tells of independent draws alone.
        verdict = weights.verdict(self.log_weight) if self.has_energy and not self.grouped else None
        length = self.path_length[solved]
        return {
            **{key: self.meta.get(key) for key in ("target", "model")},
            "n": self.n,
            "failed": self.n_failed,
            "solver_failed": self.n_solver_failed,
            "other_stereoisomer": chirality,
            "ess_reverse": self.ess(seed=seed).as_dict() if self.has_energy else None,
            "log_z": self.log_z(seed=seed).as_dict() if self.has_energy else None,
            "pareto_k": verdict.k if verdict is not None and math.isfinite(verdict.k) else None,
            "verdict": None if verdict is None else verdict.sentence,
            "nfe": float(self.nfe[solved].mean()) if solved.any() else None,
            "path_length": float(length.mean()) if np.isfinite(length).any() else None,
            "seconds": self.meta.get("seconds"),
        }
