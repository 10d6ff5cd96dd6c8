"""Mirror images of a chiral molecule: reflected with the right density, or without weight."""

import dataclasses
import math
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow import targets
from boltzflow.cli.sample import summarize
from boltzflow.config import EACF, ECNF, EGNN, Flow, GaussLegendre, Spherical, Vector
from boltzflow.flows.build import build_flow
from boltzflow.sampling.enantiomers import log_images, with_right_enantiomer
from boltzflow.sampling.generate import generate
from boltzflow.sampling.samples import Samples
from boltzflow.targets import ChiralCentre, Target, chirality_signs

CENTRE = ChiralCentre(0, (1, 2, 3, 4), 1)


def chiral(centres: tuple[ChiralCentre, ...] = (CENTRE,)) -> Target:
    """Five particles in wells of their own classes, one of them a centre; the energy does not feel the chirality."""
    return Target(
        name="chiral",
        n_particles=5,
        dimension=3,
        energy_function=lambda x: 0.5 * jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2),
        classes=(0, 1, 2, 3, 4),
        reflections=False,
        chiral_centres=centres,
    )


def flow_of(options: Flow):
    return build_flow(options, chiral(), 1.0, key=jax.random.key(0))


COUPLING = EACF(Spherical(width=8), blocks=1, layers=1, features=8)
SYMMETRIC = {
    "ecnf": ECNF(EGNN(hidden=8, layers=1), GaussLegendre(2), scale=1.0),
    "vector": dataclasses.replace(COUPLING, projection=Vector(width=8)),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_folded_density_integrates_to_one(name):
    flow, target = flow_of(SYMMETRIC[name]), chiral()
    folded = generate(flow, target, 400, seed=0)
    plain = generate(flow, chiral(()), 400, seed=0)
    assert log_images(flow, target) == pytest.approx(math.log(2.0))
    assert (chirality_signs(folded.positions, [CENTRE]) == 1).all()
    was_right = (chirality_signs(plain.positions, [CENTRE]) == 1)[:, 0]
    assert 100 < was_right.sum() < 300
    np.testing.assert_allclose(folded.positions, np.where(was_right[:, None, None], 1, -1) * plain.positions)
    np.testing.assert_allclose(folded.log_q, plain.log_q + math.log(2.0))
    assert folded.meta["reflected"] == 400 - was_right.sum()
    assert folded.meta["other_stereoisomer"] == 0
    # Half of the configurations, each twice as probable: the partition function of one enantiomer is half of the whole.
    assert folded.log_z().value == pytest.approx(plain.log_z().value - math.log(2.0))


def test_a_spherical_frame_may_follow_reflections():
    assert flow_of(dataclasses.replace(COUPLING, projection=Spherical(width=8, mirror=True))).mirror_symmetric


def test_a_flow_that_knows_hands_is_left_alone():
    flow = flow_of(COUPLING)
    target = chiral()
    samples = generate(flow, target, 400, seed=0)
    wrong = (chirality_signs(samples.positions, [CENTRE]) == -1)[:, 0]
    assert log_images(flow, target) == 0.0
    assert samples.meta["reflected"] == 0
    assert samples.meta["other_stereoisomer"] == wrong.sum() > 100
    assert np.isneginf(samples.log_weight[wrong]).all()
    assert np.isfinite(samples.log_weight[~wrong]).all()


def test_other_stereoisomers_have_no_weight(capsys):
    # A second centre that always has the chirality opposite to the first: no reflection makes both right.
    opposite = ChiralCentre(0, (1, 2, 3, 4), -1)
    samples = generate(flow_of(SYMMETRIC["ecnf"]), chiral((CENTRE, opposite)), 50, seed=0)
    assert samples.meta["other_stereoisomer"] == 50
    assert samples.n_other_stereoisomer == 50
    assert np.isneginf(samples.log_weight).all()
    # They are told apart from what failed.
    assert samples.n_failed == samples.n_solver_failed == 0
    assert (samples.summary()["failed"], samples.summary()["other_stereoisomer"]) == (0, 50)
    summarize(samples, seconds=1.0)
    said = capsys.readouterr().out
    assert re.search(r"failed samples +0\s", said)
    assert re.search(r"samples of another stereoisomer +50\s", said)


def test_counts_add_up_in_files_and_in_joined_samples(tmp_path):
    flow, target = flow_of(SYMMETRIC["ecnf"]), chiral()
    whole = generate(flow, target, 60, seed=0)
    streamed = generate(flow, target, 60, seed=0, chunk=8, out=tmp_path / "s.h5")
    assert streamed.meta["reflected"] == whole.meta["reflected"] > 0
    other = generate(flow, target, 60, seed=1)
    assert Samples.concatenate([whole, other]).meta["reflected"] == whole.meta["reflected"] + other.meta["reflected"]
    # What was drawn once is counted once.
    for again in ([whole, whole], [whole.take(slice(0, 20)), whole.take(slice(20, 60))]):
        assert Samples.concatenate(again).meta == whole.meta


def test_targets_without_hands_are_left_alone():
    flow = flow_of(SYMMETRIC["ecnf"])
    samples = generate(flow, chiral(()), 20, seed=0)
    assert "reflected" not in samples.meta
    assert log_images(flow, chiral(())) == 0.0


def volume(x):
    """Of the tetrahedron of the four neighbours, with the sign of the chirality; (..., 5, 3) -> (...)."""
    edges = x[..., 1:4, :] - x[..., 4:, :]
    return (edges[..., 0, :] * jnp.cross(edges[..., 1, :], edges[..., 2, :])).sum(-1)


def uneven() -> Target:
    """As `chiral`, but mirror images differ by up to 1 kT, as with the correction maps of some force fields."""
    energy = lambda x: chiral().energy(x) + 0.5 * jnp.tanh(volume(x))  # noqa: E731
    return dataclasses.replace(chiral(), name="uneven", energy_function=energy)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_energies_are_those_of_the_positions_stored(name):
    target, n = uneven(), 3000
    samples = generate(flow_of(SYMMETRIC[name]), target, n, seed=0)
    assert 0.4 * n < samples.meta["reflected"] < 0.6 * n
    np.testing.assert_allclose(samples.u, target.energies(jnp.asarray(samples.positions)), atol=1e-5)
    # The truth by plain Monte Carlo of the harmonic part on the zero-CoM subspace, one enantiomer of which counts.
    x = np.random.default_rng(1).normal(size=(200_000, 5, 3)).astype(np.float32)
    v = np.asarray(volume(jnp.asarray(x - x.mean(axis=1, keepdims=True))))
    w = np.where(v > 0, np.exp(-0.5 * np.tanh(v)), 0.0)
    log_z, skew = 6 * math.log(2 * math.pi) + math.log(w.mean()), (w * np.tanh(v)).sum() / w.sum()
    assert samples.log_z().value == pytest.approx(log_z, abs=0.03)
    assert samples.expectation(np.tanh(np.asarray(volume(jnp.asarray(samples.positions))))).value == pytest.approx(skew, abs=0.03)


def test_known_energies_of_mirror_images_are_not_kept():
    target = uneven()
    x = np.random.default_rng(0).normal(size=(20, 5, 3)).astype(np.float32)
    zero, solved = np.zeros(20), np.zeros(20, int)
    mirrored = Samples(x, zero, np.asarray(target.energies(x)), solved, solved, zero)
    found = with_right_enantiomer(mirrored, flow_of(SYMMETRIC["ecnf"]), target)
    assert 0 < found.meta["reflected"] < 20
    np.testing.assert_allclose(found.u, target.energies(jnp.asarray(found.positions)), rtol=1e-6)
    assert np.abs(found.u - mirrored.u).max() > 0.1


def test_dear_energies_are_computed_once_and_only_where_they_count():
    calls = []

    def energy(x):
        calls.append(x)
        return 0.5 * float(np.sum((x - x.mean(axis=0)) ** 2))

    with ThreadPoolExecutor(2) as pool:
        target = targets.from_calculator(energy, 5, name="expensive", classes=(0, 1, 2, 3, 4), reflections=False, executor=pool, workers=2)
        target = dataclasses.replace(target, chiral_centres=(CENTRE,))
        calls.clear()
        samples = generate(flow_of(SYMMETRIC["ecnf"]), target, 13, seed=0, chunk=8)
        # The last chunk is drawn whole, but its surplus has no energies.
        assert len(calls) == 13
        assert np.isfinite(samples.u).all()
        calls.clear()
        apart = generate(flow_of(COUPLING), target, 13, seed=0)
        assert len(calls) == 13 - apart.n_other_stereoisomer < 13
