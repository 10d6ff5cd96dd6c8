"""Averaging over the copies of an augmented flow: exact for any number of draws, and worth its price."""

import dataclasses

import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import DataError
from boltzflow.sampling.averaging import averaged
from boltzflow.sampling.generate import generate
from boltzflow.training import load_model

N = 8000


@pytest.fixture(scope="module")
def model():
    return load_model("dw4-eacf")


@pytest.fixture(scope="module")
def samples(model):
    return generate(model.flow, model.target, N, seed=4)


@pytest.mark.parametrize("draws", [1, 20])
def test_weights_stay_exact(model, samples, draws):
    flow = dataclasses.replace(model.flow, marginal_draws=draws)
    found = averaged(samples, flow, model.target)
    exact = targets.get("dw4").exact
    # Without its own copy in the mean, a sample's weight would be too large on average, the more the fewer the draws.
    spread = np.exp(found.log_weight - exact.log_z)
    assert spread.mean() == pytest.approx(1.0, abs=4 * spread.std() / np.sqrt(N))
    energy = found.expectation(found.u)
    assert energy.value == pytest.approx(exact.mean_energy, abs=2 * (energy.high - energy.low))
    assert found.ess().value > samples.ess().value + (0.05 if draws == 1 else 0.2)
    np.testing.assert_array_equal(found.positions, samples.positions)
    assert found.meta["draws"] == draws + 1


def test_the_same_samples_give_the_same_weights(model, samples):
    few = samples.take(np.arange(50))
    first, second = (averaged(few, model.flow, model.target).log_q for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_failed_samples_stay_without_weight(model, samples):
    few = samples.take(np.arange(20))
    broken = dataclasses.replace(few, u=np.where(np.arange(20) == 3, np.inf, few.u))
    found = averaged(broken, model.flow, model.target)
    assert np.isneginf(found.log_weight[3])
    assert np.isfinite(np.delete(found.log_weight, 3)).all()


def test_refusals(model, samples):
    few = samples.take(np.arange(5))
    with pytest.raises(DataError, match="averaged over 21 copies already"):
        averaged(averaged(few, model.flow, model.target), model.flow, model.target)
    with pytest.raises(DataError, match="only an augmented flow"):
        averaged(few, load_model("dw4").flow, model.target)
