"""The slowest coordinates of a molecule: time-lagged independent component analysis of its dynamics.

Source: Pérez-Hernández, Paul, Giorgino, De Fabritiis and Noé, J. Chem. Phys. 139, 015102 (2013); coordinates are scaled to a kinetic map
(Noé and Clementi, J. Chem. Theory Comput. 11, 5002, 2015). Computed by deeptime.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from boltzflow import files
from boltzflow.analysis.internal_coordinates import bond_lengths, torsions
from boltzflow.errors import ConfigError, DataError

DIMENSIONS = 2
FORMAT = "boltzflow-tica"

# Pairs of frames for each feature, at the least, that a covariance is estimated from.
_PAIRS_PER_FEATURE = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Tica:
    """Maps configurations to their two slowest coordinates.

    Example:
        >>> from boltzflow.analysis.tica import Tica
        >>> pairs = np.array([[0, 1], [2, 3]])
        >>> slow = Tica("mine", np.zeros((0, 4), int), pairs, np.zeros(2), np.eye(2), lag_time=1.0, timescales=np.ones(2), n=1_000)
        >>> slow.coordinates(np.random.default_rng(0).normal(size=(64, 4, 3))).shape
        (64, 2)

    Attributes:
        fingerprint: fingerprint of the target whose dynamics it was fitted on.
        torsions: (t, 4) atoms of the torsions whose sines and cosines are features.
        pairs: (p, 2) atoms whose distances are the other features.
        offset: (2,) coordinates of features that are all zero.
        coefficients: (2t + p, 2) what a unit of each feature adds to them.
        lag_time: in ps.
        timescales: (2,) in ps.
        n: frames that it was fitted on.
    """

    fingerprint: str
    torsions: Int[np.ndarray, "t 4"]
    pairs: Int[np.ndarray, "p 2"]
    offset: Float[np.ndarray, " 2"]
    coefficients: Float[np.ndarray, "f 2"]
    lag_time: float
    timescales: Float[np.ndarray, " 2"]
    n: int

    def coordinates(self, positions: Float[np.ndarray, "n N 3"]) -> Float[np.ndarray, "n 2"]:
        """The slowest coordinates of configurations, without a unit.

        Args:
            positions: (n, N, 3) in nm.
        """
        return features(positions, self.torsions, self.pairs) @ self.coefficients + self.offset

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a small JSON file, whole or not at all.

        Args:
            path: the file to write.

        Raises:
            DataError: if it cannot be written.
        """
        path = files.named(path)
        fields = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.replace_json(path, {"format": FORMAT, **fields})
        except OSError as error:
            raise DataError(f"the TICA model cannot be written to {path} ({files.reason(error)}); choose another place.") from error


def load(path: str | os.PathLike[str]) -> Tica:
    """Reads what `Tica.save` wrote.

    Args:
        path: the file.

    Raises:
        DataError: if there is no such file, or it is none of these.
    """
    path = files.named(path)
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise ValueError(stored["format"])
        model = Tica(
            fingerprint=str(stored["fingerprint"]),
            torsions=np.array(stored["torsions"], np.int64).reshape(-1, 4),
            pairs=np.array(stored["pairs"], np.int64).reshape(-1, 2),
            offset=np.array(stored["offset"], np.float64).reshape(DIMENSIONS),
            coefficients=np.array(stored["coefficients"], np.float64).reshape(-1, DIMENSIONS),
            lag_time=float(stored["lag_time"]),
            timescales=np.array(stored["timescales"], np.float64).reshape(DIMENSIONS),
            n=int(stored["n"]),
        )
    except OSError as error:
        raise DataError(f"the TICA model {path} cannot be read ({files.reason(error)}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no TICA model, or is damaged; fit it again from the molecular dynamics.") from error
    if len(model.coefficients) != 2 * len(model.torsions) + len(model.pairs) or not np.isfinite(model.coefficients).all():
        raise DataError(f"{path} is a damaged TICA model; fit it again from the molecular dynamics.")
    return model


def features(
    positions: Float[np.ndarray, "n N 3"], quadruples: Int[np.ndarray, "t 4"], pairs: Int[np.ndarray, "p 2"]
) -> Float[np.ndarray, "n f"]:
    """Sines and cosines of torsions, then distances in the unit of the positions.

    Args:
        positions: configurations.
        quadruples: atoms of the torsions.
        pairs: atoms of the distances.
    """
    positions = np.asarray(positions, np.float64)
    parts = []
    if len(quadruples):
        angles = torsions(positions, quadruples)
        parts += [np.sin(angles), np.cos(angles)]
    if len(pairs):
        parts.append(bond_lengths(positions, pairs))
    return np.concatenate(parts, axis=-1)


def fit(
    trajectories: Sequence[Float[np.ndarray, "K N 3"]],
    quadruples: Int[np.ndarray, "t 4"],
    pairs: Int[np.ndarray, "p 2"],
    *,
    lag: int,
    interval: float,
    fingerprint: str,
) -> Tica:
    """Fits the slowest coordinates to trajectories.

    Args:
        trajectories: frames in the order of time, at equal intervals, of each chain.
        quadruples: atoms of the torsions.
        pairs: atoms of the distances.
        lag: in frames.
        interval: ps from a frame to the next.
        fingerprint: fingerprint of the target.

    Raises:
        DataError: if the trajectories are shorter than the lag, or too short for so many features.
        ConfigError: if deeptime is not installed.
    """
    long_enough = [features(part, quadruples, pairs) for part in trajectories if len(part) > lag]
    lagged = sum(len(part) - lag for part in long_enough)
    count = 2 * len(quadruples) + len(pairs)
    if lag < 1 or count < DIMENSIONS or lagged < _PAIRS_PER_FEATURE * count:
        raise DataError(
            f"TICA of {count} features with a lag of {lag} frames needs at least {_PAIRS_PER_FEATURE * count} pairs of frames that far "
            f"apart, but there are {lagged}; give longer dynamics."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from deeptime.decomposition import TICA
        except ImportError as error:
            raise ConfigError("TICA needs deeptime; install it with: pip install 'boltzflow[molecules]'.") from error
        covariances = TICA.covariance_estimator(lag)
        for part in long_enough:
            covariances.partial_fit((part[:-lag], part[lag:]))
        model = TICA(lagtime=lag, dim=DIMENSIONS).fit_from_covariances(covariances).fetch_model()
        assert model is not None
        times = np.asarray(model.timescales(lagtime=lag), np.float64)[:DIMENSIONS] * interval
        offset = np.asarray(model.transform(np.zeros((1, count))))[0]
        coefficients = np.asarray(model.transform(np.eye(count))) - offset
    if offset.shape != (DIMENSIONS,) or not np.isfinite(coefficients).all():
        raise DataError("the dynamics has fewer than two coordinates that move; TICA needs other frames.")
    times = np.where(np.isfinite(times), times, math.nan)
    return Tica(fingerprint, quadruples, pairs, offset, coefficients, lag * interval, times, sum(map(len, trajectories)))
