"""The data set and its file format."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from boltzflow import files, runtime, seeds
from boltzflow.errors import DataError

FORMAT = "boltzflow-dataset"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Configurations of one target.

    Attributes:
        positions: frames (n, N, D) in float32, centred on the zero-CoM subspace.
        fingerprint: fingerprint of the target they were drawn from.
        units: unit of length.
        provenance: where they come from: sampler, seed, versions, seconds, diagnostics.
        structure: a PDB file of the molecule for viewers; empty where there is none.
        molecule: what the molecule is, as JSON of a `targets.description.Description`; empty where there is nothing to say.
        energies: reduced energies of the frames, (n,) in float64, from the virial check; None where they have not been computed.
    """

    positions: Float[np.ndarray, "n N D"]
    fingerprint: str
    units: str
    provenance: Mapping[str, str | float | int] = dataclasses.field(default_factory=dict)
    structure: str = ""
    molecule: str = ""
    energies: Float[np.ndarray, " n"] | None = None

    @property
    def n(self) -> int:
        """Number of frames."""
        return len(self.positions)

    def __repr__(self) -> str:
        """In one line: how many frames of what."""
        return f"<Dataset: {self.n} frames of {self.fingerprint}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an HDF5 file; on disk there is the old file or the whole new one, never a part.

        The file holds `positions` (n, N, D) float32, `energies` (n,) float64 if they are known, and the root attributes format,
        format_version, fingerprint and units; the attributes of the group `provenance` are the provenance, and `structure` and `molecule`
        are the PDB file and the description of a molecule.

        Raises:
            DataError: if the file cannot be written.
        """
        path = files.named(path)
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            os.close(handle)
            with h5py.File(temporary, "w") as file:
                file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, fingerprint=self.fingerprint, units=self.units)
                file.create_dataset("positions", data=np.asarray(self.positions, np.float32))
                if self.energies is not None:
                    file.create_dataset("energies", data=np.asarray(self.energies, np.float64))
                file.create_group("provenance").attrs.update(self.provenance)
                for name, text in (("structure", self.structure), ("molecule", self.molecule)):
                    if text:
                        file.create_dataset(name, data=text)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner can read.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"the data set cannot be written to {path} ({files.reason(error)}); choose a folder that is writable and has room."
            ) from error
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    def save_or_rescue(self, path: str | os.PathLike[str]) -> None:
        """As `save`, for frames that were dear to make: where there is no room for them they are kept in another place.

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

    def split(self, *, validation: int, seed: int) -> tuple["Dataset", "Dataset"]:
        """Splits at random into training and validation frames.

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
        order = np.random.default_rng(seeds.checked(seed)).permutation(self.n)
        held_out, rest = order[:validation], order[validation:]
        note = {"split_seed": seed, "split_of": self.n}
        return (
            self._part(rest, {**note, "split": "training"}),
            self._part(held_out, {**note, "split": "validation"}),
        )

    def _part(self, chosen: np.ndarray, note: Mapping[str, str | float | int]) -> "Dataset":
        return dataclasses.replace(
            self,
            positions=self.positions[chosen],
            energies=None if self.energies is None else self.energies[chosen],
            provenance={**self.provenance, **note},
        )
