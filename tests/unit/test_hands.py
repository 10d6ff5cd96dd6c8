"""Mirror images of a chiral molecule: reflected with the right density, or without weight."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boltzflow.config import EACF, ECNF, EGNN, Flow, GaussLegendre, Spherical, Vector
from boltzflow.flows.build import build_flow
from boltzflow.sampling.generate import generate
from boltzflow.sampling.hands import log_images
from boltzflow.sampling.samples import Samples
from boltzflow.targets import ChiralCentre, Target, hands

CENTRE = ChiralCentre(0, (1, 2, 3, 4), 1)


def chiral(centres: tuple[ChiralCentre, ...] = (CENTRE,)) -> Target:
    """Five particles in wells of their own classes, one of them a centre; the energy does not feel the hand."""
    return Target(
        name="chiral",
        n_particles=5,
        dimension=3,
        energy_function=lambda x: 0.5 * jnp.sum((x - jnp.mean(x, axis=0)) ** 2),
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
    assert (hands(folded.positions, [CENTRE]) == 1).all()
    was_right = (hands(plain.positions, [CENTRE]) == 1)[:, 0]
    assert 100 < was_right.sum() < 300
    np.testing.assert_allclose(folded.positions, np.where(was_right[:, None, None], 1, -1) * plain.positions)
    np.testing.assert_allclose(folded.log_q, plain.log_q + math.log(2.0))
    assert folded.meta["reflected"] == 400 - was_right.sum()
    assert folded.meta["other_hand"] == 0
    # Half of the configurations, each twice as probable: the partition function of one hand is half of the whole.
    assert folded.log_z().value == pytest.approx(plain.log_z().value - math.log(2.0))


def test_a_spherical_frame_may_follow_reflections():
    assert flow_of(dataclasses.replace(COUPLING, projection=Spherical(width=8, mirror=True))).mirror_symmetric


def test_a_flow_that_knows_hands_is_left_alone():
    flow = flow_of(COUPLING)
    target = chiral()
    samples = generate(flow, target, 400, seed=0)
    wrong = (hands(samples.positions, [CENTRE]) == -1)[:, 0]
    assert log_images(flow, target) == 0.0
    assert samples.meta["reflected"] == 0
    assert samples.meta["other_hand"] == wrong.sum() > 100
    assert np.isneginf(samples.log_weight[wrong]).all()
    assert np.isfinite(samples.log_weight[~wrong]).all()


def test_other_stereoisomers_have_no_weight():
    # A second centre that always has the hand opposite to the first: no reflection makes both right.
    opposite = ChiralCentre(0, (1, 2, 3, 4), -1)
    samples = generate(flow_of(SYMMETRIC["ecnf"]), chiral((CENTRE, opposite)), 50, seed=0)
    assert samples.meta["other_hand"] == 50
    assert samples.n_failed == 50
    assert samples.n_solver_failed == 0


def test_counts_add_up_in_files_and_in_joined_samples(tmp_path):
    flow, target = flow_of(SYMMETRIC["ecnf"]), chiral()
    whole = generate(flow, target, 60, seed=0)
    streamed = generate(flow, target, 60, seed=0, chunk=8, out=tmp_path / "s.h5")
    assert streamed.meta["reflected"] == whole.meta["reflected"] > 0
    assert Samples.concatenate([whole, whole]).meta["reflected"] == 2 * whole.meta["reflected"]


def test_targets_without_hands_are_left_alone():
    flow = flow_of(SYMMETRIC["ecnf"])
    samples = generate(flow, chiral(()), 20, seed=0)
    assert "reflected" not in samples.meta
    assert log_images(flow, chiral(())) == 0.0
