"""Symmetries are tried before they are used, and what an energy lacks is refused with its name and the difference in kT."""

import concurrent.futures
import dataclasses
import multiprocessing
import re
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import boltzflow as bf
from boltzflow import reference, targets
from boltzflow.config import EACF, ECNF, EGNN, Cartesian, NoProjection, Spherical, TwoInteraction, Vector
from boltzflow.errors import ConfigError, TargetError
from boltzflow.flows.augmented import AugmentedCouplingFlow
from boltzflow.flows.build import build_flow
from boltzflow.targets.calculators import failures, from_calculator


def centred(x):
    return x - x.mean(0, keepdims=True)


def springs(x):
    return 0.5 * jnp.sum(centred(x) ** 2)


def tied_to_axes(x):
    return 0.5 * jnp.sum(jnp.array([[1.0, 1.5]]) * centred(x) ** 2)


def unequal(x):
    """The third of three particles is held by a stiffer spring."""
    return 0.5 * jnp.sum(jnp.array([1.0, 1.0, 2.0])[:, None] * centred(x) ** 2)


def handed(x):
    """Springs that know the chirality of four particles; even permutations keep it, as rotations do."""
    return springs(x) + 0.3 * jnp.tanh(jnp.linalg.det(x[1:] - x[:1]))


def ring(x):
    return jnp.sum((x - jnp.roll(x, 1, 0)) ** 2)


def distances(x):
    return jnp.sqrt(jnp.sum((x[:, None] - x[None]) ** 2, axis=-1) + jnp.eye(len(x)))


# ---- what is found -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "shape", "classes", "reflections"),
    [
        (springs, (5, 3), (0, 0, 0, 0, 0), True),
        (unequal, (3, 2), (0, 0, 1), True),
        (handed, (4, 3), (0, 1, 2, 3), False),
        (ring, (4, 3), (0, 1, 0, 1), True),
        (lambda x: springs(x) + jnp.sin(x[0, 0] - x[1, 0]), (2, 1), (0, 1), False),
        (lambda x: jax.lax.mul(jnp.float32(0.5), jnp.sum(centred(x) ** 2)), (4, 3), (0, 0, 0, 0), True),
    ],
)
def test_symmetries_are_found(fn, shape, classes, reflections):
    target = targets.from_function(fn, *shape, name="found")
    assert (target.classes, target.reflections) == (classes, reflections)
    assert "found by testing" in target.about
    assert target.about in repr(target)
    assert len(repr(target)) < 400


def test_what_is_given_is_kept():
    target = targets.from_function(springs, 3, 2, name="springs", classes=[4, 4, 7], reflections=False)
    assert (target.classes, target.reflections, target.about) == ((4, 4, 7), False, "")


@pytest.mark.slow
def test_frames_of_unequal_particles_have_the_right_variances():
    """The covariance on the zero-CoM subspace is the inverse of the springs there; particles that are told apart keep their own."""
    basis = np.linalg.svd(np.ones((1, 3)))[2][1:]
    exact = np.diag(basis.T @ np.linalg.inv(basis @ np.diag([1.0, 1.0, 2.0]) @ basis.T) @ basis)
    frames = reference.sample(targets.from_function(unequal, 3, 2, name="unequal"), 4000, seed=0).dataset.positions
    np.testing.assert_allclose((np.asarray(frames, np.float64) ** 2).mean(axis=(0, 2)), exact, rtol=0.1)


# ---- what is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "shape", "given", "message"),
    [
        (tied_to_axes, (3, 2), {}, r"changes by [\d.]+ kT when the configuration is rotated"),
        (lambda x: springs(x) + 0.1 * jnp.sum(x[0] * jnp.array([1.0, 0.0])) - 0.1 * x[1, 0], (3, 2), {}, "is rotated"),
        (lambda x: springs(x) + 0.02 * jnp.sum(x**2), (3, 2), {}, r"changes by [\d.]+ kT when all particles are moved by 1"),
        (unequal, (3, 2), {"classes": [0, 0, 0]}, r"changes by [\d.]+ kT when particles 0 and 2 change places.*class 0"),
        (unequal, (3, 2), {"classes": [1, 0, 0]}, "particles 1 and 2 change places"),
        (handed, (4, 3), {"reflections": True}, r"changes by [\d.]+ kT when the configuration is reflected.*reflections=False"),
        (handed, (4, 3), {"reflections": False, "classes": [0, 0, 1, 2]}, "particles 0 and 1 change places"),
        (ring, (5, 3), {"classes": [0] * 5}, "change places"),
        (
            lambda x: springs(x) + jnp.where(jnp.abs(centred(x)).max() > 1.25, jnp.inf, 0.0),
            (3, 2),
            {"start": lambda key: jnp.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])},
            "between finite and not finite when the configuration is rotated",
        ),
    ],
)
def test_symmetries_that_the_energy_lacks(fn, shape, given, message):
    with pytest.raises(TargetError, match=message):
        targets.from_function(fn, *shape, name="bad", **given)


@pytest.mark.parametrize("constant", [0.0, 1e6, -1e8])
def test_a_constant_hides_nothing(constant):
    """Checks are on an absolute scale of kT; 0.05 kT are seen beside 100 million."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for fn in (lambda x: unequal(x) + constant, lambda x: springs(x) + constant + 0.05 * jnp.tanh(x[0, 0])):
            with pytest.raises(TargetError, match="change"):
                targets.from_function(fn, 3, 2, name="large", classes=[0, 0, 0])
        assert targets.from_function(lambda x: springs(x) + constant, 3, 2, name="large").classes == (0, 0, 0)


def test_a_constant_that_costs_digits_is_told():
    with pytest.warns(UserWarning, match=r"rounds its differences to 0\.031 kT in single precision; subtract a reference"):
        targets.from_function(lambda x: springs(x) + 1e6, 3, 2, name="large")


def test_targets_made_by_hand_are_tried_before_use():
    made = targets.Target("by hand", 3, 2, unequal, (0, 0, 0))
    with pytest.raises(TargetError, match="particles 0 and 2 change places"):
        reference.sample(made, 100)
    turned = dataclasses.replace(targets.from_function(handed, 4, 3, name="handed"), reflections=True)
    with pytest.raises(TargetError, match="reflected"):
        bf.fit(turned, bf.Dataset(np.zeros((10, 4, 3), np.float32), turned.fingerprint, "reduced", {}), out="never")


@pytest.mark.parametrize(
    "target",
    [
        targets.double_well(),
        targets.double_well(3, 1, a=1.0),
        targets.double_well(5, 3),
        targets.lennard_jones(13, epsilon=1.0),
        targets.lennard_jones(2, trap=1e-3),
        targets.lennard_jones(20),
    ],
    ids=lambda target: target.fingerprint,
)
def test_targets_that_are_built_in_pass(target):
    dataclasses.replace(target).check_energy()


def test_no_symmetry_is_tried_twice(monkeypatch):
    target = targets.from_function(springs, 3, 2, name="springs")
    monkeypatch.setattr(targets.Target, "trial", lambda self: pytest.fail("tried again"))
    target.check_energy()
    targets.double_well().check_energy()


# ---- densities that do not exist -----------------------------------------------------------------------------------------------


def lennard_jones(x):
    i, j = np.triu_indices(len(x), 1)
    r = distances(x)[i, j]
    return 2.0 * jnp.sum(r**-12 - 2.0 * r**-6)


@pytest.mark.parametrize(
    ("fn", "n", "message"),
    [
        (lambda x: 3.0 + 0.0 * jnp.sum(x), 4, "is 3 kT for every configuration"),
        (lambda x: -springs(x), 4, "sinks without bound where the whole configuration expands"),
        (lambda x: jnp.sum((x[0] - x[1]) ** 2), 3, "nothing holds.*particle 2 is moved away"),
        (lambda x: jnp.sum((x[0] - x[1]) ** 2) + jnp.sum((x[2] - x[3]) ** 2), 4, "nothing holds.*particles 0 to 1 are moved away"),
        (lambda x: springs(x) - 1.0 / distances(x)[1, 2], 4, "sinks without bound where particles come together"),
        (lambda x: jnp.tanh(springs(x)), 4, "nothing holds"),
    ],
)
def test_energies_that_cannot_be_normalised(fn, n, message):
    with pytest.raises(TargetError, match=message):
        targets.from_function(fn, n, 3, name="loose")


def test_a_cluster_without_a_trap_evaporates():
    start = targets.get("lj13").start
    with pytest.raises(TargetError, match="nothing holds the particles"):
        targets.from_function(lennard_jones, 13, 3, name="cluster", start=start)
    held = targets.from_function(lambda x: lennard_jones(x) + 1e-4 * springs(x), 13, 3, name="cluster", start=start)
    assert held.classes == (0,) * 13


@pytest.mark.parametrize(
    "fn", [lambda x: springs(x) + jnp.log(distances(x)[0, 1]), lambda x: 1e-5 * springs(x), lambda x: 40.0 * jnp.log1p(springs(x))]
)
def test_weak_but_sufficient(fn):
    targets.from_function(fn, 4, 3, name="held")


# ---- energies that cost --------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        yield executor


def counted(fn, threads, n=4, dimension=3, **given):
    calls = []

    def function(x):
        calls.append(x)
        return float(fn(x))

    return from_calculator(function, n, dimension, name="counted", executor=threads, **given), calls


def test_few_evaluations_where_all_is_well(threads):
    target, calls = counted(lambda x: 0.5 * np.sum(centred(x) ** 2), threads, n=30)
    assert (target.classes, target.reflections) == ((0,) * 30, True)
    assert len(calls) == 7 == failures(target).evaluated
    assert "all particles are interchangeable and mirror images have the same energy" in target.about


def test_classes_of_calculators(threads):
    springs_of = lambda k: lambda x: 0.5 * np.sum(np.asarray(k)[:, None] * centred(x) ** 2)  # noqa: E731
    assert counted(springs_of([1.0, 1.0, 2.0, 1.0]), threads)[0].classes == (0, 0, 1, 0)
    many, calls = counted(springs_of(np.arange(1.0, 21.0)), threads, n=20)
    assert many.classes == tuple(range(20)), "told apart, for trying each pair would cost"
    assert len(calls) < 40
    with pytest.raises(TargetError, match="particles 0 and 2 change places"):
        counted(springs_of([1.0, 1.0, 2.0, 1.0]), threads, classes=[0, 0, 0, 0])


def test_hands_and_directions_of_calculators(threads):
    chirality = lambda x: 0.5 * np.sum(centred(x) ** 2) + 3.0 * np.tanh(np.linalg.det(x[1:] - x[0]))  # noqa: E731
    assert not counted(chirality, threads)[0].reflections
    with pytest.raises(TargetError, match="is reflected"):
        counted(chirality, threads, reflections=True, classes=[0, 1, 2, 3])
    with pytest.raises(TargetError, match="is rotated"):
        counted(lambda x: 0.5 * np.sum(np.array([1, 1, 2.0]) * centred(x) ** 2), threads)
    for constant in (0.0, -1e7):
        with pytest.raises(TargetError, match="moved by 1"):
            counted(lambda x, constant=constant: constant + 0.5 * np.sum(x**2), threads)


def test_an_energy_that_changes_from_call_to_call(threads):
    noise = np.random.default_rng(0)
    with pytest.raises(TargetError, match="differ by .* kT from call to call"):
        counted(lambda x: 0.5 * np.sum(centred(x) ** 2) + 3.0 * noise.standard_normal(), threads)


@pytest.mark.parametrize("hartree", [-155.0, -1000.0, -8000.0])
def test_total_energies_keep_their_differences(threads, hartree):
    kt = 0.00831446261815324 * 300.0 / 2625.4996394799
    given = {"energy_unit": "hartree", "length_unit": "nm", "temperature": 300.0}
    target, _ = counted(lambda x: hartree + 20 * kt * np.sum(centred(x) ** 2), threads, **given)
    x = np.random.default_rng(1).normal(size=(64, 4, 3)).astype(np.float32)
    u = np.asarray(target.energies(jnp.asarray(x)), np.float64)
    exact = np.array([20 * np.sum(centred(frame.astype(np.float64)) ** 2) for frame in x])
    np.testing.assert_allclose(u - u.mean(), exact - exact.mean(), atol=1e-3)
    told = re.search(r"energies are relative to (-?\d+\.\d{3}) hartree, the energy of the start", target.about)
    assert told is not None
    assert float(told[1]) == pytest.approx(hartree, abs=1.0)
    # The density is that of any other reference.
    assert "reference_energy" not in target.fingerprint
    named, _ = counted(lambda x: hartree + 20 * kt * np.sum(centred(x) ** 2), threads, reference_energy=hartree, **given)
    assert f"reference_energy={hartree}" in named.fingerprint
    assert "relative to" not in named.about
    np.testing.assert_allclose(named.energies(jnp.asarray(x)), exact, atol=1e-2)


def test_small_energies_are_left_as_they_are(threads):
    target, _ = counted(lambda x: 900.0 + 0.5 * np.sum(centred(x) ** 2), threads)
    x = jnp.zeros((1, 4, 3))
    assert float(target.energies(x)[0]) == 900.0
    total, _ = counted(lambda x: 1e6 + 0.5 * np.sum(centred(x) ** 2), threads, reference_energy=0.0)
    assert float(total.energies(x)[0]) == 1e6


def in_a_pool(_: int) -> str:
    try:
        from_calculator(cast(Any, abs), 3, 2, name="springs", workers=1)
    except TargetError as error:
        return str(error)
    return "made"


def test_inside_a_daemonic_worker(monkeypatch):
    """A worker of multiprocessing.Pool may have no processes of its own."""
    process = multiprocessing.current_process()
    monkeypatch.setitem(process._config, "daemon", True)  # pyright: ignore[reportAttributeAccessIssue]
    assert "pass executor=concurrent.futures.ThreadPoolExecutor()" in in_a_pool(0)


@pytest.mark.parametrize(("charge", "multiplicity"), [(0, 2), (1, 1), (-1, 3), (0, 0), (9, 1), (0, 14)])
def test_electrons_that_cannot_be_paired(charge, multiplicity):
    pytest.importorskip("tblite")
    geometry = 0.1 * np.array([[0.0, 0.0, 0.1193], [0.0, 0.7632, -0.4770], [0.0, -0.7632, -0.4770]])
    with pytest.raises(TargetError, match="multiplicity"):
        targets.gfn2_xtb(["O", "H", "H"], positions=geometry, temperature=300.0, charge=charge, multiplicity=multiplicity)


# ---- dimensions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_density_on_a_line_is_normalised():
    target = targets.from_function(springs, 2, 1, name="line")
    flow = build_flow(ECNF(EGNN(layers=1, hidden=4)), target, 1.3, key=jax.random.key(0))
    y = np.linspace(-12, 12, 241)
    x = jnp.asarray(np.stack([y, -y], 1)[:, :, None] / np.sqrt(2), jnp.float32)
    log_q = np.asarray(jax.jit(jax.vmap(lambda x: flow.log_prob(x).log_q))(x), np.float64)
    assert np.exp(log_q).sum() * (y[1] - y[0]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "dimension", "message"),
    [
        (ECNF(TwoInteraction(radial=4)), 1, "choose egnn"),
        (EACF(Cartesian()), 1, "2 or 3 dimensions, and the target has 1"),
        (EACF(Spherical()), 1, "choose vector"),
        (EACF(Spherical()), 4, "the target has 4"),
    ],
)
def test_flows_that_are_not_made_for_a_dimension(config, dimension, message):
    target = targets.Target("springs", 3, dimension, springs, (0, 0, 0))
    with pytest.raises(ConfigError, match=message):
        build_flow(config, target, 1.0, key=jax.random.key(0))


@pytest.mark.slow
def test_coupling_on_a_line_and_its_inverse():
    target = targets.Target("springs", 3, 1, springs, (0, 0, 0))
    for projection in (Vector(width=4), NoProjection()):
        config = EACF(projection, blocks=1, layers=1, features=4)
        flow = build_flow(config, target, 1.0, key=jax.random.key(0))
        assert isinstance(flow, AugmentedCouplingFlow)
        channels, log_q = jax.jit(lambda key, flow=flow: flow.sample_joint(key=key))(jax.random.key(1))
        assert channels.shape[-1] == 1
        assert float(jax.jit(lambda x, flow=flow: flow.joint(x).log_q)(channels)) == pytest.approx(float(log_q), abs=1e-3)
