"""Targets: energies against the published formulas, symmetries, bad energy functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import TargetError


def ordered_pairs(positions: np.ndarray) -> np.ndarray:
    """Distances of all ordered pairs i != j, as the published sums run over them."""
    difference = positions[:, None] - positions[None, :]
    return np.sqrt((difference**2).sum(-1))[~np.eye(len(positions), dtype=bool)]


@pytest.fixture(params=["dw4", "lj13", "lj13-once", "lj55"])
def target(request):
    return targets.get(request.param)


def start(target: targets.Target, seed: int = 0) -> np.ndarray:
    return np.asarray(target.starting_positions(key=jax.random.key(seed)), np.float64)


def test_double_well_is_the_published_sum():
    x = start(targets.get("dw4"))
    shifted = ordered_pairs(x) - 4.0
    expected = 0.5 * np.sum(-4.0 * shifted**2 + 0.9 * shifted**4)
    with jax.enable_x64(True):
        assert float(targets.get("dw4").energy(jnp.asarray(x))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "share"), [("lj13", 1.0), ("lj13-once", 0.5)])
def test_lennard_jones_counting_convention(name: str, share: float):
    """Ordered pairs with unit depth are `lj13`; each pair once is half of that."""
    x = start(targets.get(name))
    r = ordered_pairs(x)
    expected = share * np.sum(r**-12 - 2 * r**-6) + 0.5 * np.sum((x - x.mean(0)) ** 2)
    with jax.enable_x64(True):
        assert float(targets.get(name).energy(jnp.asarray(x))) == pytest.approx(expected, rel=1e-12)


def test_lennard_jones_dimer_has_its_minimum_at_r_m():
    dimer = targets.lennard_jones(2, epsilon=3.0, r_m=1.5, trap=1e-6)
    x = jnp.asarray([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    assert float(dimer.energy(x)) == pytest.approx(-3.0, abs=1e-4)
    assert np.abs(np.asarray(jax.grad(dimer.energy)(x))).max() < 1e-4


def test_energy_is_invariant(target: targets.Target):
    generator = np.random.default_rng(3)
    x = start(target)
    rotation, _ = np.linalg.qr(generator.standard_normal((target.dimension, target.dimension)))
    mirror = np.diag([-1.0] + [1.0] * (target.dimension - 1))
    moved = [x @ rotation, x @ mirror, x[generator.permutation(len(x))], x + 3.7]
    with jax.enable_x64(True):
        u = np.asarray(target.energies(jnp.asarray(np.stack([x, *moved]))))
    np.testing.assert_allclose(u[1:], u[0], rtol=1e-10)


def test_gradient_is_the_derivative(target: targets.Target):
    x = start(target)
    direction = np.random.default_rng(5).standard_normal(x.shape)
    with jax.enable_x64(True):
        _, gradient = target.energies_and_gradients(jnp.asarray(x)[None])
        up, down = target.energies(jnp.asarray(np.stack([x + 1e-6 * direction, x - 1e-6 * direction])))
    assert float(np.sum(np.asarray(gradient) * direction)) == pytest.approx(float(up - down) / 2e-6, rel=1e-5)
    assert np.abs(np.asarray(gradient).sum(axis=1)).max() < 1e-8 * np.abs(np.asarray(gradient)).max() + 1e-9


def test_coincident_particles():
    x = np.asarray(start(targets.get("dw4")), np.float32)
    x[1] = x[0]
    assert np.isfinite(np.asarray(jax.grad(targets.get("dw4").energy)(jnp.asarray(x)))).all()
    x = np.asarray(start(targets.get("lj13")), np.float32)
    x[1] = x[0]
    assert np.asarray(targets.get("lj13").energy(jnp.asarray(x))) == np.inf


@pytest.mark.parametrize("name", sorted(set(targets.names()) - {"qm9-positional"}))
def test_starting_positions(name: str):
    target = targets.get(name)
    x = jax.vmap(lambda key: target.starting_positions(key=key))(jax.random.split(jax.random.key(0), 64))
    u = np.asarray(target.energies(x))
    assert np.isfinite(u).all()
    assert np.abs(np.asarray(x).mean(axis=1)).max() < 1e-5
    assert u.std() > 0, "all chains would start alike"
    if name.startswith("lj"):
        assert min(ordered_pairs(np.asarray(frame)).min() for frame in x) > 0.85
        assert u.max() < 0


def test_energy_keeps_the_precision(target: targets.Target):
    assert target.energy(jnp.asarray(start(target), jnp.float32)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert target.energy(jnp.asarray(start(target))).dtype == jnp.float64


def test_registry():
    assert set(targets.names()) == {"alanine-dipeptide", "dw4", "lj13", "lj13-once", "lj55", "lj55-once", "qm9-positional"}
    assert all(description for description in targets.names().values())
    assert targets.get("lj13") is targets.get("lj13")
    assert targets.get("lj13").fingerprint == targets.lennard_jones(13).fingerprint
    fingerprints = {targets.get(name).fingerprint for name in targets.names()}
    assert len(fingerprints) == len(targets.names())
    with pytest.raises(TargetError, match="'lj31'.*did you mean.*'lj13'"):
        targets.get("lj31")


def test_exact_values_belong_to_the_published_parameters_only():
    for name in ("dw4", "lj13", "lj55"):
        exact = targets.get(name).exact
        assert exact.entropy == pytest.approx((exact.mean_energy or 0) + (exact.log_z or 0), abs=0.06)
    assert targets.lennard_jones(13, trap=0.5).exact.log_z is None
    assert targets.get("lj13-once").exact.log_z is None
    assert targets.double_well(b=-3.0).exact.log_z is None
    assert targets.double_well(5, 3).exact.log_z is None


def test_unnormalisable_parameters_are_refused():
    with pytest.raises(TargetError, match="c > 0"):
        targets.double_well(c=0.0)
    with pytest.raises(TargetError, match="trap > 0"):
        targets.lennard_jones(13, trap=0.0)
    with pytest.raises(TargetError, match="at least 2 particles"):
        targets.lennard_jones(1)


def harmonic(x):
    return 0.5 * jnp.sum((x - x.mean(axis=0, keepdims=True)) ** 2)


def test_from_function():
    target = targets.from_function(harmonic, 3, 2, name="springs", parameters={"k": 1.0}, classes=[0, 0, 1])
    assert target.fingerprint == "springs(k=1.0, symmetry='c62de827') N=3 D=2 [reduced]"
    assert target.degrees_of_freedom == 4
    assert target.classes == (0, 0, 1)
    other = targets.from_function(harmonic, 3, 2, name="springs", parameters={"k": 1.0}, units="nm", temperature=300.0)
    assert other.fingerprint != target.fingerprint
    assert other.classes == (0, 0, 0)
    assert dataclasses.astuple(other.exact)[:3] == (None, None, None)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: jnp.sum(x) * jnp.nan, "returns nan"),
        (lambda x: jnp.sum((x - x.mean(0, keepdims=True)) ** 2, axis=-1), r"returns shape \(3,\)"),
        (lambda x: (jnp.sum(x), jnp.sum(x)), "must return a scalar"),
        (lambda x: x @ jnp.ones(5), "fails on positions of shape"),
        (lambda x: jnp.sum(x**2), "moved by 1"),
    ],
)
def test_bad_energy_functions(fn, message: str):
    with pytest.raises(TargetError, match=message):
        targets.from_function(fn, 3, 2, name="bad")


def test_units_that_are_not_known():
    with pytest.raises(TargetError, match="has lengths in 'Angstroem'; known are reduced, nm, angstrom"):
        targets.from_function(lambda x: jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2), 3, 2, name="u", units="Angstroem")


def test_classes_of_the_wrong_length():
    with pytest.raises(TargetError, match="3 particles but 2"):
        targets.from_function(harmonic, 3, 2, name="springs", classes=[0, 0])
