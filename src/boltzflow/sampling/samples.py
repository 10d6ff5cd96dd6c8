"""What a flow draws: configurations with their exact probability, energy and weight."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from boltzflow import files
from boltzflow.analysis import free_energy, weights
from boltzflow.analysis.estimate import Estimate
from boltzflow.errors import DataError

FIELDS = {"log_q": np.float64, "u": np.float64, "status": np.int8, "nfe": np.int32, "path_length": np.float64}
"""The columns beside the positions, with their types in memory and on disk."""

SUMMED = ("seconds", "reflected", "other_hand")
"""Entries of the meta that add up where samples are joined."""


def summed(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that add up, over the metas of what is joined."""
    return {key: sum(meta[key] for meta in metas if key in meta) for key in SUMMED if any(key in meta for meta in metas)}


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a flow. Everything that a failed sample lacks may be NaN; its weight is zero and it counts in n.

    Attributes:
        positions: (n, N, D) configurations with their centre of mass at zero, in the target's units.
        log_q: (n,) log density of the flow on the zero-CoM subspace, in nats.
        u: (n,) reduced energies U/kT of the target.
        status: (n,) 0 where the solver succeeded, else its number of the failure.
        nfe: (n,) evaluations of the vector field.
        path_length: (n,) summed lengths of the solver's steps, in the target's units.
        meta: where the samples come from: target, fingerprint, units, model, seed, seconds, ...; `structure` is the PDB file of a molecule.
    """

    positions: Shaped[np.ndarray, "n N D"]
    log_q: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]
    status: Int[np.ndarray, " n"]
    nfe: Int[np.ndarray, " n"]
    path_length: Float[np.ndarray, " n"]
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions)
        if positions.ndim != 3 or not np.issubdtype(positions.dtype, np.floating):
            raise DataError(f"positions must be floats of shape (n, N, D), but are {positions.dtype} of shape {positions.shape}.")
        object.__setattr__(self, "positions", positions)
        for name, dtype in FIELDS.items():
            column = np.asarray(getattr(self, name), dtype=dtype)
            if column.shape != positions.shape[:1]:
                raise DataError(f"{name} of {len(positions)} samples must have shape ({len(positions)},), but has shape {column.shape}.")
            object.__setattr__(self, name, column)
        object.__setattr__(self, "meta", dict(self.meta))

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

    @property
    def has_energy(self) -> bool:
        """Whether the target has an energy, so that there is something to reweight to."""
        return bool(self.meta.get("energy", True))

    @property
    def log_weight(self) -> Float[np.ndarray, " n"]:
        """(n,) log w = -u - log q; -inf where the solver failed or u or log q is not finite, never NaN.

        Samples of a density without energy count alike: 0 where the solver succeeded.
        """
        if not self.has_energy:
            return np.where(self.status == 0, 0.0, -np.inf)
        usable = (self.status == 0) & np.isfinite(self.u) & np.isfinite(self.log_q)
        log_w = np.full(self.n, -np.inf)
        log_w[usable] = -self.u[usable] - self.log_q[usable]
        return log_w

    @property
    def n_failed(self) -> int:
        """Samples that have no weight: the solve failed, or the energy or log q is not finite."""
        return int(np.sum(np.isneginf(self.log_weight)))

    @property
    def n_solver_failed(self) -> int:
        """Samples whose solve failed."""
        return int(np.sum(self.status != 0))

    def ess(self, *, seed: int = 0) -> Estimate:
        """Reverse effective sample size as a fraction of n; see `analysis.weights.reverse_ess`."""
        self._need_energy()
        return weights.reverse_ess(self.log_weight, seed=seed)

    def log_z(self, *, seed: int = 0) -> Estimate:
        """Log partition function on the zero-CoM subspace; see `analysis.weights.log_z`."""
        self._need_energy()
        return weights.log_z(self.log_weight, seed=seed)

    def expectation(self, observable: Callable[[Float[np.ndarray, "n N D"]], Any] | Float[np.ndarray, " n"], *, seed: int = 0) -> Estimate:
        """Expectation of an observable under the target.

        Args:
            observable: maps a batch of positions (n, N, D) to (n,) values; or these values.
            seed: seed of the bootstrap.

        Raises:
            DataError: if the values have another shape or are not finite where a sample has weight.
        """
        return weights.expectation(self.log_weight, self._per_sample(observable, "an observable"), seed=seed)

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
        return free_energy.difference(self.log_weight, self._per_sample(in_a, "a region"), self._per_sample(in_b, "a region"), seed=seed)

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
        """
        return self.positions[weights.resample_indices(self.log_weight, n, seed=seed)]

    def take(self, indices: Any) -> "Samples":
        """The samples at some indices (integers, booleans or a slice)."""
        columns = {name: getattr(self, name)[indices] for name in FIELDS}
        return Samples(positions=self.positions[indices], **columns, meta=self.meta)

    @staticmethod
    def concatenate(parts: Sequence["Samples"]) -> "Samples":
        """Joins samples of one origin; keeps the first one's meta, with what adds up (`SUMMED`) added up.

        Raises:
            DataError: if there are none, or they come from different targets.
        """
        if not parts:
            raise DataError("there are no samples to join.")
        first = parts[0].meta.get("fingerprint")
        for part in parts:
            if part.meta.get("fingerprint") != first:
                raise DataError(f"samples of {part.meta.get('fingerprint')} cannot be joined with samples of {first}.")
        meta = {**parts[0].meta, **summed([part.meta for part in parts])}
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
        return Samples(positions=np.concatenate([part.positions for part in parts]), **columns, meta=meta)

    def summary(self, *, seed: int = 0) -> dict[str, Any]:
        """Key figures as plain values for JSON; null where there is nothing to say."""
        solved = self.status == 0
        verdict = weights.verdict(self.log_weight) if self.has_energy else None
        length = self.path_length[solved]
        return {
            "target": self.meta.get("target"),
            "model": self.meta.get("model"),
            "n": self.n,
            "failed": self.n_failed,
            "solver_failed": self.n_solver_failed,
            "ess_reverse": self.ess(seed=seed).as_dict() if self.has_energy else None,
            "log_z": self.log_z(seed=seed).as_dict() if self.has_energy else None,
            "pareto_k": verdict.k if verdict is not None and math.isfinite(verdict.k) else None,
            "weights": None if verdict is None else verdict.sentence,
            "nfe": float(self.nfe[solved].mean()) if solved.any() else None,
            "path_length": float(length.mean()) if np.isfinite(length).any() else None,
            "seconds": self.meta.get("seconds"),
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes an HDF5 file, whole or not at all.

        Raises:
            RunError: if the file exists and `overwrite` is False, or it cannot be written.
        """
        from boltzflow.sampling import writer

        writer.save(self, files.named(path), overwrite=overwrite)

    @staticmethod
    def load(path: str | Path, target: Any = None) -> "Samples":
        """Reads a file of `save` or `SamplesWriter`, also one whose writer was killed.

        Args:
            path: the file.
            target: the Target that the samples must belong to; None takes any.

        Raises:
            DataError: if there is no such file, it holds no samples, or they belong to another target.
        """
        from boltzflow.sampling import writer

        samples = writer.load(files.named(path))
        fingerprint = samples.meta.get("fingerprint")
        if target is not None and fingerprint != target.fingerprint:
            raise DataError(f"{path} holds samples of {fingerprint}, not of {target.fingerprint}; choose the matching target or file.")
        return samples

    def export(self, path: str | Path, topology: Any = None, **options: Any) -> int:
        """Writes a trajectory that other programs read; see `sampling.export.export`. Returns the number of frames."""
        from boltzflow.sampling.export import export

        return export(self, path, topology=topology, **options)
