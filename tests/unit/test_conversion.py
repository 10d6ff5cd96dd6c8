"""Samples as objects of other packages, and with the weights of another target."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.datasets import Dataset
from boltzflow.errors import DataError
from boltzflow.sampling import Samples
from boltzflow.sampling.conversion import to_ase, to_mdtraj
from boltzflow.targets import molecule_folder

N, DIMENSION = 4, 3
DEGREES = (N - 1) * DIMENSION


def springs(stiffness: float, name: str = "springs") -> targets.Target:
    parameters = {"k": stiffness}
    return targets.from_function(
        lambda x: 0.5 * stiffness * jnp.sum((x - jnp.mean(x, axis=0)[None]) ** 2), N, DIMENSION, name=name, parameters=parameters
    )


@pytest.fixture(scope="module")
def soft() -> targets.Target:
    return springs(1.0)


@pytest.fixture(scope="module")
def samples(soft) -> Samples:
    """Draws of a normal density a tenth wider than soft springs have."""
    n, width = 4_000, 1.1
    x = width * np.random.default_rng(0).normal(size=(n, N, DIMENSION))
    x -= x.mean(axis=1, keepdims=True)
    squares = np.sum(x**2, axis=(1, 2))
    log_q = -0.5 * squares / width**2 - DEGREES * math.log(width * math.sqrt(2.0 * math.pi))
    zero = np.zeros(n)
    meta = {"target": soft.name, "fingerprint": soft.fingerprint, "units": "reduced", "energy_evaluations": n}
    return Samples(x.astype(np.float32), log_q, 0.5 * squares, np.zeros(n, int), np.zeros(n, int), zero, meta)


class TestReweighting:
    def test_to_stiffer_springs(self, samples):
        stiff = springs(1.5)
        found = samples.reweighted(stiff)
        log_z = 0.5 * DEGREES * math.log(2.0 * math.pi / 1.5)
        assert found.log_z().low < log_z < found.log_z().high
        size = found.expectation(np.sum(np.float64(found.positions) ** 2, axis=(1, 2)))
        assert size.low < DEGREES / 1.5 < size.high
        assert found.meta["fingerprint"] == stiff.fingerprint
        assert found.meta["reweighted_from"] == samples.meta["fingerprint"]
        assert found.meta["energy_evaluations"] == 2 * samples.n
        np.testing.assert_allclose(found.log_weight, samples.log_weight + samples.u - found.u, atol=1e-4)
        # The samples themselves are as they were.
        np.testing.assert_allclose(samples.u, 0.5 * np.sum(np.float64(samples.positions) ** 2, axis=(1, 2)), rtol=1e-5)

    def test_weights_of_their_own_are_carried_along(self, samples):
        own = dataclasses.replace(samples, log_weight=samples.log_weight + 2.0 * (np.arange(samples.n) % 2))
        found = own.reweighted(springs(1.5))
        np.testing.assert_allclose(found.log_weight, own.log_weight + own.u - found.u, atol=1e-9)

    def test_failed_samples_stay_without_weight(self, samples):
        status = np.where(np.arange(samples.n) < 5, 1, 0)
        broken = dataclasses.replace(samples, status=status)
        found = broken.reweighted(springs(1.5))
        assert np.isneginf(found.log_weight[:5]).all()
        assert found.meta["energy_evaluations"] == 2 * samples.n - 5

    def test_refusals(self, samples):
        with pytest.raises(DataError, match=r"but target 'double_well' has \(4, 2\)"):
            samples.reweighted(targets.get("dw4"))
        with pytest.raises(DataError, match="the samples are in reduced, but target 'springs' is in nm"):
            samples.reweighted(dataclasses.replace(springs(1.5), units="nm"))
        with pytest.raises(DataError, match="has no energy"):
            samples.reweighted(dataclasses.replace(springs(1.5), energy_function=None))
        chains = dataclasses.replace(samples, group=np.ones(samples.n, int), meta={**samples.meta, "correction": "metropolis"})
        with pytest.raises(DataError, match="corrected chains or populations"):
            chains.reweighted(springs(1.5))


@pytest.fixture(scope="module")
def molecule() -> Any:
    pytest.importorskip("openmm")
    target = targets.get("alanine-dipeptide")
    n = 6
    x = target.structure + 0.005 * np.random.default_rng(0).standard_normal((n, target.n_particles, 3))
    x = (x - x.mean(axis=1, keepdims=True)).astype(np.float32)
    u = np.where(np.arange(n) == 2, np.inf, np.arange(n, dtype=float))
    zero = np.zeros(n)
    meta = {"target": target.name, "fingerprint": target.fingerprint, "units": "nm", **molecule_folder.texts(target)}
    return target, Samples(x, zero, u, np.zeros(n, int), np.zeros(n, int), zero, meta)


def test_to_mdtraj(molecule):
    mdtraj = pytest.importorskip("mdtraj")
    target, samples = molecule
    found = samples.to_mdtraj()
    assert isinstance(found, mdtraj.Trajectory)
    np.testing.assert_array_equal(found.xyz, samples.positions[[0, 1, 3, 4, 5]])
    assert [atom.name for atom in found.topology.atoms] == [atom.name for atom in target.topology.atoms()]
    # The first weighs 1 / (1 + e^-1 + ...) of all, about 0.6.
    drawn = samples.to_mdtraj(resampled=True, n=200)
    assert 110 < np.sum((drawn.xyz == samples.positions[0]).all(axis=(1, 2))) < 140
    data = Dataset(samples.positions, target.fingerprint, "nm", **molecule_folder.texts(target))
    np.testing.assert_array_equal(to_mdtraj(data, n=2).xyz, samples.positions[[0, 5]])
    assert mdtraj.compute_phi(found)[1].shape == (5, 1)


def test_to_ase(molecule):
    ase = pytest.importorskip("ase")
    target, samples = molecule
    found = samples.to_ase()
    assert len(found) == 5
    assert isinstance(found[0], ase.Atoms)
    np.testing.assert_allclose(found[2].positions, 10.0 * samples.positions[3], rtol=1e-6)
    assert found[0].get_chemical_symbols() == list(target.elements)
    assert found[2].info == {"u": 3.0, "log_q": 0.0, "log_weight": -3.0}
    weighted = Dataset(samples.positions, target.fingerprint, "nm", **molecule_folder.texts(target), log_weight=np.arange(6.0))
    assert [atoms.info["log_weight"] for atoms in to_ase(weighted)] == list(range(6))


def test_particles_have_no_topology(samples):
    with pytest.raises(DataError, match="a trajectory needs a topology and springs has none"):
        samples.to_mdtraj()
    pytest.importorskip("ase")
    assert samples.to_ase(n=3)[0].get_chemical_symbols() == ["X"] * N
