"""The slowest coordinates of a molecular target, from frames of molecular dynamics in the order of time."""

import numpy as np

from boltzflow.analysis import internal_coordinates, tica
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.reference.dynamics import SAMPLER
from boltzflow.targets.base import Target

LAG_TIME = 10.0
"""Of the fit, in ps; that of a few frames where they are further apart."""


def backbone_torsions(target: Target) -> np.ndarray:
    """Atoms of phi and psi of each residue that has both, (2r, 4); none for particles and for molecules without a backbone."""
    found = [] if target.topology is None else internal_coordinates.backbones(target.topology)
    return np.array([atoms for residue in found for atoms in (residue.phi, residue.psi)], np.int64).reshape(-1, 4)


def fit(dynamics: Dataset, target: Target, *, lag_time: float = LAG_TIME) -> tica.Tica:
    """TICA of the sines and cosines of backbone torsions and of the distances of heavy atoms.

    Heavy atoms that may be exchanged are left out: each frame of our dynamics is moved by a random symmetry of the target, so that they
    jump from frame to frame.

    Args:
        dynamics: frames of `reference.molecular_dynamics`, all of them: frames of tempering, and some of the frames, are not in the order
            of time.
        target: the molecule.
        lag_time: in ps.

    Raises:
        DataError: if the frames are of another target or not in the order of time, or the target is no molecule.
        ConfigError: if deeptime is not installed.
    """
    if dynamics.fingerprint != target.fingerprint:
        raise DataError(f"the dynamics belongs to {dynamics.fingerprint}, but the model to {target.fingerprint}.")
    if not target.elements or target.dimension != 3:
        raise DataError(f"{target.name} has no torsions and no atoms whose slow coordinates dynamics could tell; leave the dynamics out.")
    if dynamics.log_weight is not None:
        raise DataError("this dynamics is weighted, and TICA takes all frames alike; give unbiased molecular dynamics.")
    origin = dynamics.provenance
    if origin.get("sampler") != SAMPLER:
        sampler = origin.get("sampler") or "an unknown sampler"
        raise DataError(
            f"TICA needs frames of molecular dynamics in the order of time, but these are of {sampler}; "
            "make them with `boltzflow reference --method molecular-dynamics`."
        )
    if {"split_of", "spread_of"} & set(origin):
        raise DataError("TICA needs all frames of the dynamics, at equal intervals, but these are a part of them; give the whole file.")
    chains, interval = int(origin["chains"]), float(origin["interval"])
    alone = [i for i, number in enumerate(target.classes) if target.elements[i] != "H" and target.classes.count(number) == 1]
    pairs = np.array([(i, j) for place, i in enumerate(alone) for j in alone[place + 1 :]], np.int64).reshape(-1, 2)
    torsions = backbone_torsions(target)
    torsions = torsions[np.isin(torsions, alone).all(axis=1)]
    # Frames lie chain by chain; the last draw may be incomplete (`reference.result.chain_by_chain`).
    lengths = (dynamics.n - np.arange(chains) + chains - 1) // chains
    parts = np.split(dynamics.positions, np.cumsum(lengths)[:-1])
    lag = max(1, round(lag_time / interval))
    return tica.fit(parts, torsions, pairs, lag=lag, interval=interval, fingerprint=target.fingerprint)
