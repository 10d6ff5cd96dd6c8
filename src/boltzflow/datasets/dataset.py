"""The data set and its file format."""

import dataclasses
import math
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from boltzflow import display, files, runtime, seeds, selection
from boltzflow.analysis import correlation, metrics, weights
from boltzflow.analysis.estimate import significant
from boltzflow.datasets import frame_weights
from boltzflow.errors import DataError

FORMAT = "boltzflow-dataset"
FORMAT_VERSION = 2
"""2 has log-weights, which a reader of 1 would not know of; data whose frames count alike are still written as 1."""
_UNWEIGHTED = 1

IN_TIME = "time"
"""Value of "order" in the provenance of frames that lie in the order of time, as in a trajectory."""

# Whole chains are held out for validation where there are this many: a few might miss what others have seen.
_WHOLE_CHAINS = 20
# Frames, and pairs of particles, that a thumbnail's distances are of.
_SHOWN = 300
# Else runs of frames, each of about this many, up to so many runs.
_RUN, _RUNS = 20, 50


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Configurations of one target.

    A sequence, as `Samples` are: `len(data)`, and `data[index]` with a whole number, a slice, whole numbers or booleans, which always gives
    a `Dataset` with all that belongs to these frames; a whole number gives one of a single frame, as iteration does. `np.asarray(data)` is
    the positions.

    Example:
        >>> data = bf.datasets.of(np.asarray(samples), target)
        >>> data.n, data.positions.shape
        (64, (64, 4, 2))

    Attributes:
        positions: frames (n, N, D) in float32, centred on the zero-CoM subspace.
        fingerprint: fingerprint of the target they were drawn from.
        units: unit of length.
        provenance: where they come from: sampler, seed, versions, seconds, diagnostics.
        structure: a PDB file of the molecule for viewers; empty where there is none.
        molecule: what the molecule is, as JSON of a `targets.description.Description`; empty where there is nothing to say.
        energies: reduced energies of the frames, (n,) in float64, from the virial check; None where they have not been computed.
        log_weight: log-weights of frames that do not count alike, (n,) in float64, up to a constant, finite or -inf: averages over the
            target are those of the frames with these weights. None: all count alike.
    """

    positions: Float[np.ndarray, "n N D"]
    fingerprint: str
    units: str
    provenance: Mapping[str, str | float | int] = dataclasses.field(default_factory=dict)
    structure: str = ""
    molecule: str = ""
    energies: Float[np.ndarray, " n"] | None = None
    log_weight: Float[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.positions) != 3:
            raise DataError(f"positions of a data set must have shape (n, N, D), but have shape {np.shape(self.positions)}.")
        if self.log_weight is not None:
            object.__setattr__(self, "log_weight", frame_weights.valid(self.log_weight, len(self.positions), "a data set"))

    @property
    def n(self) -> int:
        """Number of frames."""
        return len(self.positions)

    def __repr__(self) -> str:
        """In one line: how many frames of what."""
        return f"<Dataset: {self.n} frames of {self.fingerprint}>"

    def _repr_html_(self) -> str:
        """For notebooks: what the frames are of and worth, and their energies or distances."""
        shape = f"{self.n} of {' × '.join(str(size) for size in np.shape(self.positions)[1:])} ({self.units})"
        worth = self.n_effective
        rows: list[display.Row] = [
            ("target", self.fingerprint),
            ("frames", shape),
            ("independent ones", None if worth is None else f"at most {significant(worth)}"),
            ("weights", None if self.log_weight is None else "of their own"),
            ("sampler", self.provenance.get("sampler")),
            ("virial check", str(self.provenance.get("virial_check", "")).partition(":")[0]),
        ]
        if not self.n:
            return display.page("Dataset", rows)
        shown = self.equally_weighted()
        known = None if shown.energies is None else shown.energies[shown.in_order_of_chains()]
        known = None if known is None else known[np.isfinite(known)]
        if known is not None and known.size:
            # All frames of a correlated chain are worth less than their number.
            rows.append(("mean energy / kT", *metrics.mean(known, correlation=correlation.of_series(known, at_most=worth)).texts()))
            return display.page("Dataset", rows, display.thumbnail(lambda axes: _energies(axes, known), "histogram of the energies"))
        return display.page("Dataset", rows, display.thumbnail(self._distances, "histogram of the distances between particles"))

    def _distances(self, axes: Any) -> None:
        x = np.asarray(self.positions[correlation.spread(self.n, _SHOWN)], np.float64)
        first, second = np.triu_indices(x.shape[1], k=1)
        chosen = correlation.spread(len(first), _SHOWN)
        distances = np.linalg.norm(x[:, first[chosen]] - x[:, second[chosen]], axis=-1)
        axes.hist(distances[np.isfinite(distances)], bins=60, density=True, color=display.GREY)
        axes.set(xlabel=f"distance of two particles {display.unit(self.units)}", ylabel="density")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> "Dataset":
        """The frames at some indices, with their energies; see the class.

        Raises:
            IndexError: if there is no such frame, or the index is none.
        """
        chosen = selection.rows(index, self.n)
        whole = np.array_equal(np.arange(self.n)[chosen], np.arange(self.n))
        return self._part(chosen, {} if whole else {"spread_of": self.n})

    def __iter__(self) -> "Iterator[Dataset]":
        return (self[index] for index in range(self.n))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.positions, dtype, copy=copy)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes an HDF5 file, whole or not at all.

        Args:
            path: the file; its folder is made if need be.
            overwrite: whether a file that is there may go; it goes when the new one is whole.

        The file holds `positions` (n, N, D) float32, `energies` (n,) float64 if they are known, `log_weight` (n,) float64 if frames do not
        count alike, and the root attributes format, format_version, fingerprint and units; the attributes of the group `provenance` are the
        provenance, and `structure` and `molecule` are the PDB file and the description of a molecule.

        Raises:
            DataError: if the file exists and `overwrite` is False, or it cannot be written.
        """
        path = files.named(path)
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists already; choose another file, or pass overwrite=True.")
        # A name of its own, because two processes may write the same frames.
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.writing(path, temporary=temporary), h5py.File(temporary, "w") as file:
                # A reader that does not know of weights would take all frames alike.
                version = FORMAT_VERSION if self.log_weight is not None else _UNWEIGHTED
                file.attrs.update(format=FORMAT, format_version=version, fingerprint=self.fingerprint, units=self.units)
                file.create_dataset("positions", data=np.asarray(self.positions, np.float32))
                if self.energies is not None:
                    file.create_dataset("energies", data=np.asarray(self.energies, np.float64))
                if self.log_weight is not None:
                    file.create_dataset(frame_weights.NAME, data=np.asarray(self.log_weight, np.float64))
                file.create_group("provenance").attrs.update(self.provenance)
                for name, text in (("structure", self.structure), ("molecule", self.molecule)):
                    if text:
                        file.create_dataset(name, data=text)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"the data set cannot be written to {path} ({files.reason(error)}); choose a folder that is writable and has room."
            ) from error

    def save_or_rescue(self, path: str | os.PathLike[str]) -> None:
        """As `save`, for frames that were expensive to make: where there is no room for them they are kept in another place.

        Args:
            path: the file to write.

        Raises:
            DataError: if the file cannot be written; says where the frames are kept.
        """
        try:
            self.save(path)
        except DataError as error:
            name = f"boltzflow-{Path(path).stem}-{os.getpid()}.h5"
            for place in (Path(tempfile.gettempdir()), runtime.cache_folder(), Path.cwd()):
                try:
                    self.save(place / name)
                except DataError:
                    continue
                raise DataError(f"{str(error).rstrip('.')}; the frames are kept in {place / name}.") from error
            raise

    def in_order_of_chains(self) -> Int[np.ndarray, " n"]:
        """Indices that put the frames chain by chain, in time, as far as one can tell.

        Frames of this package's samplers lie so. Others may lie sweep by sweep over several chains, which shows where sizes of the
        configurations come again after that many frames.
        """
        if {"chains", "split_of", "drawn_of"} & set(self.provenance) or self.provenance.get("order") == IN_TIME:
            return np.arange(self.n)
        x = np.asarray(self.positions, np.float64)
        # Of labelled particles distances are told apart that the radius of gyration does not see.
        sizes = [np.mean(np.sum(x**2, axis=2), axis=1), np.linalg.norm(x[:, 0] - x[:, -1], axis=1), np.sum(x[:, 0] ** 2, axis=1)]
        return correlation.chain_order(self.n, correlation.period(*sizes))

    @property
    def n_effective(self) -> float | None:
        """What the frames are worth at most in independent ones; None if nobody tells.

        By the effective sample sizes of the sampler or of the trajectory, and by Kish's number of the weights, (sum w)² / sum w².
        """
        if "drawn_worth" in self.provenance:
            return min(float(self.n), float(self.provenance["drawn_worth"]))
        known = self._n_uncorrelated
        if self.log_weight is None or not np.isfinite(self.log_weight).any():
            return known
        weight = weights.normalized(self.log_weight)
        return min(float(1.0 / np.sum(weight**2)), float(self.n) if known is None else known)

    @property
    def _n_uncorrelated(self) -> float | None:
        """As `n_effective`, of frames that count alike."""
        known = [float(value) for key, value in self.provenance.items() if key.startswith("ess_") and isinstance(value, int | float)]
        known = [value for value in known if math.isfinite(value) and value > 0.0]
        if not known:
            return None
        whole = self.provenance.get("split_of", self.n)
        return min(float(self.n), min(known) * self.n / float(whole)) if "spread_of" not in self.provenance else min(float(self.n), *known)

    def equally_weighted(self, n: int | None = None, *, seed: int = 0) -> "Dataset":
        """Frames that count alike, drawn by the weights, in the order of the chains; the data set itself where its frames do already.

        By systematic resampling, so that a frame comes as often as its weight says, rounded up or down (`weights.resample_indices`).

        Args:
            n: how many; None: as many as there are. Only the effective number of them are independent.
            seed: the same seed draws the same frames.

        Raises:
            DataError: if no frame has weight, or n is below 1.
        """
        if self.log_weight is None:
            return self
        order = self.in_order_of_chains()
        chosen = np.sort(weights.resample_indices(self.log_weight[order], self.n if n is None else n, seed=seed))
        alike = dataclasses.replace(self, log_weight=None)
        worth = self.n_effective
        return alike._part(order[chosen], {"drawn_of": self.n, "drawn_worth": float(self.n if worth is None else worth)})

    def spread(self, count: int, *, seed: int = 0) -> "Dataset":
        """Some of the frames, never those of one end: random ones from equal parts of all chains, in the order of the chains.

        Args:
            count: how many; all frames if there are not more.
            seed: the same seed takes the same frames.
        """
        chosen = self.in_order_of_chains()[correlation.spread(self.n, count, seed=seed)]
        return self._part(chosen, {} if len(chosen) == self.n else {"spread_of": self.n})

    def split(self, *, validation: int, seed: int) -> tuple["Dataset", "Dataset"]:
        """Splits into training and validation frames; neighbours in a chain, which are alike, stay together.

        Whole chains are held out where 20 or more are known and the validation frames make one at least. Else runs of consecutive frames
        are, one from each of equal parts of the data. Of a trajectory the frames next to such a run, as many as frames are correlated over,
        are in neither set. Both sets are in the order of the chains, and keep the weights of their frames.

        Args:
            validation: number of validation frames.
            seed: the same seed gives the same split.

        Returns:
            (training, validation).

        Raises:
            DataError: if no frames would be left for training.
        """
        if not 0 <= validation < self.n:
            raise DataError(
                f"{validation} validation frames cannot be held out of {self.n}; choose a number from 0 to {self.n - 1}, or make more data."
            )
        order = self.in_order_of_chains()
        held = np.zeros(self.n, bool)
        held[self._held_out(validation, np.random.default_rng(seeds.checked(seed)))] = True
        between = self._between(held)
        note = {"split_seed": seed, "split_of": self.n, **({"left_out_between": int(between.sum())} if between.any() else {})}
        training, held_out = (
            self._part(order[part], {**note, "split": name}) for part, name in ((~held & ~between, "training"), (held, "validation"))
        )
        return training, held_out

    @property
    def _memory(self) -> int:
        """Frames of a trajectory over which they are correlated; 0 of what is none."""
        if self.provenance.get("order") != IN_TIME or "split_of" in self.provenance:
            return 0
        return max(1, math.ceil(self.n / (self._n_uncorrelated or self.n)))

    def _between(self, held: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Frames, in the order of time, that are too near to those held out to train on; at most a quarter of those that are left."""
        edges, left = max(1, int(np.sum(held[1:] != held[:-1]))), self.n - int(held.sum())
        width = min(self._memory, max(1, left // (4 * edges)), (left - 1) // edges)
        counted, place = np.concatenate([[0], np.cumsum(held)]), np.arange(self.n)
        near = counted[np.minimum(place + width + 1, self.n)] - counted[np.maximum(place - width, 0)]
        return (near > 0) & ~held

    def _part(self, chosen: Int[np.ndarray, " m"] | slice, note: Mapping[str, str | float | int]) -> "Dataset":
        """Some of the frames with their energies and weights."""
        return dataclasses.replace(
            self,
            positions=self.positions[chosen],
            energies=None if self.energies is None else self.energies[chosen],
            log_weight=None if self.log_weight is None else self.log_weight[chosen],
            provenance={**self.provenance, **note},
        )

    def _held_out(self, validation: int, rng: np.random.Generator) -> Int[np.ndarray, " v"]:
        """Places, in the order of the chains, of the validation frames."""
        chains = self.provenance.get("chains", 0)
        whole = not {"split_of", "spread_of"} & set(self.provenance)
        chains = int(chains) if isinstance(chains, int | float) and whole else 0
        if _WHOLE_CHAINS <= chains <= self.n and validation * chains >= self.n:
            # Frame k of (draws, chains) belongs to chain k modulo chains; the last draw may be incomplete.
            lengths = (self.n - np.arange(chains) + chains - 1) // chains
            starts = np.cumsum(lengths) - lengths
            places = np.concatenate([int(starts[chain]) + np.arange(int(lengths[chain])) for chain in rng.permutation(chains)])
            return places[:validation]
        # Of a trajectory runs are long beside what is lost at their ends.
        runs = int(np.clip(validation // max(_RUN, 3 * self._memory), 1, _RUNS)) if validation else 1
        if 1 < chains <= runs:
            # As many from each chain.
            runs -= runs % chains
        edges = np.linspace(0, self.n, runs + 1).astype(np.int64)
        sizes = np.diff(np.linspace(0, validation, runs + 1).astype(np.int64))
        starts = edges[:-1] + (rng.random(runs) * (np.diff(edges) - sizes + 1)).astype(np.int64)
        return np.concatenate([start + np.arange(int(size)) for start, size in zip(starts, sizes, strict=True)])


def _energies(axes: Any, energies: Float[np.ndarray, " n"]) -> None:
    # A few frames far up would squeeze the others.
    low, high = np.quantile(energies, [0.0005, 0.9995])
    margin = 0.02 * (high - low) or 0.5
    axes.hist(energies, bins=np.linspace(low - margin, high + margin, 61), density=True, color=display.GREY)
    axes.set(xlabel="energy / kT", ylabel="density")
