"""Turns about bonds: which bonds, what they leave as it is, and the density that a chain of them has."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.analysis import internal_coordinates
from boltzflow.chemistry.chirality import chirality_signs
from boltzflow.chemistry.turning import Turns, turned, turns_of
from boltzflow.geometry import orthogonal
from boltzflow.objectives import rungs
from boltzflow.reference.tempering import Ladder

sys.path.insert(0, str(Path(__file__).parents[1]))

from corrections import normal


def found(*elements: str, bonds: tuple[tuple[int, int], ...]) -> Turns | None:
    return turns_of(elements, bonds)


def test_bonds_that_turn():
    # Two neighbours, as in a chain of double bonds: nothing says that it turns.
    assert found("C", "C", "C", "O", bonds=((0, 1), (1, 2), (2, 3))) is None
    turns = found("C", "O", "C", "N", bonds=((0, 1), (1, 2), (2, 3)))
    assert turns is not None
    np.testing.assert_array_equal(turns.axes, [[1, 2]])
    np.testing.assert_array_equal(turns.ends.sum(axis=1), [2])
    # In a ring nothing turns, and what has no bonds has nothing to turn about.
    assert found("C", "O", "C", "N", bonds=((0, 1), (1, 2), (2, 3), (0, 3))) is None
    assert Ladder(targets.get("lj13"), (1.0,), leapfrog_steps=1, hmc_steps=1, turning=4).turns is None


def test_of_alanine_dipeptide_phi_and_psi_turn_and_nothing_else():
    pytest.importorskip("openmm")
    target = targets.alanine_dipeptide()
    turns, residue = turns_of(target.elements, target.bonds), internal_coordinates.backbones(target.topology)[0]
    assert turns is not None
    assert {frozenset(map(int, axis)) for axis in turns.axes} == {frozenset(residue.phi[1:3]), frozenset(residue.psi[1:3])}
    assert (turns.ends.sum(axis=1) <= 11).all()
    x = jnp.asarray(target.structure, jnp.float32)
    new = np.asarray(jax.vmap(lambda key: turned(turns, x, key=key))(jax.random.split(jax.random.key(0), 64)))
    bonds = np.asarray(target.bonds)
    lengths, before = (internal_coordinates.bond_lengths(each, bonds) for each in (new, np.asarray(x)[None]))
    np.testing.assert_allclose(lengths, before.repeat(64, 0), atol=1e-5)
    assert (chirality_signs(new, target.chiral_centres) > 0).all()
    # Phi, psi and the amide bond before them.
    torsions = np.array([residue.phi, residue.psi, (1, *residue.phi[:3])])
    angles, before = (internal_coordinates.torsions(each, torsions) for each in (new, np.asarray(x)[None]))
    moved = np.abs(np.angle(np.exp(1j * (angles - before)))) > 1e-4
    # One of the two each time, both of them in turn.
    np.testing.assert_array_equal(moved[:, :2].sum(axis=1), 1)
    assert 10 < moved[:, 0].sum() < 54
    assert not moved[:, 2].any()


def test_equivariant_and_of_unit_volume():
    turns = found("C", "O", "C", "N", "C", bonds=((0, 1), (1, 2), (2, 3), (2, 4)))
    assert turns is not None
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (5, 3))
        rotation = orthogonal.haar(np.random.default_rng(2), 1, 3, determinant=1.0)[0]
        for number in range(4):
            key = jax.random.key(10 + number)
            np.testing.assert_allclose(turned(turns, x @ rotation.T, key=key), turned(turns, x, key=key) @ rotation.T, atol=1e-12)
            jacobian = jax.jacfwd(lambda x, key=key: turned(turns, x.reshape(5, 3), key=key).reshape(-1))(x.reshape(-1))
            assert jnp.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-12)


START = np.array([[0.0, 1.0, 0.3], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [1.7, 1.0, 0.2]], np.float32)


@pytest.fixture(scope="module")
def torsion() -> targets.Target:
    """Four atoms whose energy is that of their torsion alone, with uneven wells."""

    def energy(x):
        a, b, c = x[0] - x[1], x[2] - x[1], x[3] - x[2]
        first, second = jnp.cross(a, b), jnp.cross(c, b)
        lengths = jnp.sqrt(jnp.sum(first**2) * jnp.sum(second**2))
        return (2.0 * jnp.sum(first * second) + jnp.sum(a * second) * jnp.sqrt(jnp.sum(b**2))) / lengths

    return targets.Target("torsion", 4, 3, energy, (0, 1, 2, 3), elements=("H", "O", "C", "N"), bonds=((0, 1), (1, 2), (2, 3)))


def agree(energies: np.ndarray, temperature: float) -> None:
    """Energies of independent frames have the mean and spread of the torsion at a temperature."""
    angle = np.linspace(0.0, 2.0 * np.pi, 10_000, endpoint=False)
    values = 2.0 * np.cos(angle) + np.sin(angle)
    weights = np.exp(-values / temperature)
    weights /= weights.sum()
    mean = weights @ values
    spread = np.sqrt(weights @ (values - mean) ** 2)
    assert energies.mean() == pytest.approx(mean, abs=4 * spread / np.sqrt(len(energies)))
    assert energies.std() == pytest.approx(spread, rel=0.08)


def test_turns_alone_sample_the_torsion_at_each_temperature(torsion):
    ladder = Ladder(torsion, (1.0, 2.0), leapfrog_steps=1, hmc_steps=1, turning=60)
    state = ladder.init(jnp.broadcast_to(jnp.asarray(START), (2, 2000, 4, 3)))

    @jax.jit
    def turn(state, key):
        return jax.lax.scan(ladder._turn, state, jax.random.split(key, 60))

    state, accepted = turn(state, jax.random.key(3))
    for row, temperature in enumerate(ladder.temperatures):
        agree(np.asarray(state.energy)[row], temperature)
    assert 0.2 < accepted[:, 0].mean() < accepted[:, 1].mean() < 0.9


def test_walkers_of_cooling_turn_too(torsion):
    """Steps so short that nothing else moves."""
    space = rungs.space_of(normal(torsion, 1.0, scale=0.7), torsion)
    turns = turns_of(torsion.elements, torsion.bonds)
    options = {"moves": 60, "leapfrog": 1, "chunk": 500, "key": jax.random.key(5)}
    x = jnp.broadcast_to(jnp.asarray(START - START.mean(axis=0)), (1000, 4, 3))
    for given in (None, turns):
        # The step size would grow: as short as to stay negligible through all moves.
        found = rungs.moved(space, x, jnp.asarray(1.5), jnp.asarray(1e-30), turns=given, **options)
        energies = np.asarray(jax.vmap(torsion.energy)(found.positions))
        if given is None:
            assert np.ptp(energies) < 1e-3
        else:
            agree(energies, 1.5)
