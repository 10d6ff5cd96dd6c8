"""Short Langevin dynamics against the equilibrium of a molecule of springs."""

import concurrent.futures
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import reference, targets
from boltzflow.errors import DataError, TargetError

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import Recorder

openmm = pytest.importorskip("openmm")
pytest.importorskip("openmm.app")


def ring() -> targets.Target:
    """Four carbons, each joined to all others by springs of length zero: 9 harmonic degrees of freedom."""
    topology = openmm.app.Topology()
    residue = topology.addResidue("RNG", topology.addChain())
    for i in range(4):
        topology.addAtom(f"C{i}", openmm.app.element.carbon, residue)

    def energy(x: jax.Array) -> jax.Array:
        return 100.0 * jnp.sum((x[:, None] - x[None]) ** 2) / 2.0

    springs = targets.from_function(energy, n_particles=4, dimension=3, name="ring")
    return dataclasses.replace(springs, topology=topology, temperature=300.0, units="nm")


@pytest.fixture(scope="module")
def springs() -> targets.Target:
    return ring()


def test_it_reaches_equilibrium(springs):
    frames = np.random.default_rng(0).normal(scale=0.2, size=(2000, 4, 3))
    relaxed = reference.relax(springs, frames, steps=400, time_step=1.0, friction=0.02, seed=3)
    assert relaxed.n == 2000
    assert relaxed.fingerprint == springs.fingerprint
    np.testing.assert_allclose(relaxed.positions.mean(axis=1), 0.0, atol=1e-6)
    u = np.asarray(springs.energies(relaxed.positions))
    assert np.asarray(springs.energies(frames.astype(np.float32))).mean() > 40
    # Each harmonic degree of freedom has half a kT.
    assert u.mean() == pytest.approx(4.5, abs=4 * u.std() / np.sqrt(len(u)))
    assert u.var() == pytest.approx(4.5, rel=0.2)


def energy_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
    """The springs of the ring, outside JAX, in kT."""
    apart = x[:, None] - x[None]
    return 50.0 * float(np.sum(apart**2)), 200.0 * apart.sum(axis=1)


def test_gradients_by_the_workers_of_an_executor(springs):
    frames = np.random.default_rng(0).normal(scale=0.1, size=(7, 4, 3))
    found = []
    with concurrent.futures.ThreadPoolExecutor(1) as one, concurrent.futures.ThreadPoolExecutor(3) as three:
        for executor in (one, three):
            outside = targets.from_calculator(energy_and_gradient, 4, 3, name="ring", executor=executor)
            outside = dataclasses.replace(outside, topology=springs.topology, temperature=300.0, units="nm")
            found.append(reference.relax(outside, frames, steps=4, seed=1).positions)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], reference.relax(springs, frames, steps=4, seed=1).positions, atol=1e-5)


def test_the_same_seed_gives_the_same_frames(springs):
    frames = np.random.default_rng(0).normal(scale=0.1, size=(5, 4, 3))
    told = Recorder()
    first = reference.relax(springs, frames, steps=3, seed=1, progress=told)
    np.testing.assert_array_equal(first.positions, reference.relax(springs, frames, steps=3, seed=1).positions)
    assert np.abs(first.positions - reference.relax(springs, frames, steps=3, seed=2).positions).max() > 1e-4
    assert (told.pieces, told.done) == ([(3, "relaxation")], [1, 2, 3])


def test_frames_that_are_lost_are_counted(springs):
    frames = np.random.default_rng(0).normal(scale=0.1, size=(5, 4, 3))
    frames[2, 0, 0] = np.inf
    relaxed = reference.relax(springs, frames, steps=2)
    assert (relaxed.n, relaxed.provenance["lost"]) == (4, 1)
    with pytest.raises(DataError, match="no frame stayed finite"):
        reference.relax(springs, np.full((2, 4, 3), np.nan), steps=1)


def test_refusals(springs):
    with pytest.raises(TargetError, match="no molecule with a topology"):
        reference.relax(targets.get("lj13"), np.zeros((1, 13, 3)))
    with pytest.raises(DataError, match=r"frames of shape \(n, 4, 3\)"):
        reference.relax(springs, np.zeros((2, 3, 3)))
