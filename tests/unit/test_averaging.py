"""Averaging over the copies of an augmented flow: exact for any number of draws, and worth its price."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest

from boltzflow import targets
from boltzflow.errors import DataError, RunError
from boltzflow.models import load_model
from boltzflow.models.remote import Densities, ratio_farm
from boltzflow.sampling import averaging
from boltzflow.sampling.averaging import average_to, averaged
from boltzflow.sampling.generate import generate
from boltzflow.sampling.samples import Samples
from boltzflow.sampling.thinning import thinned, thinning

N = 4000


@pytest.fixture(scope="module")
def model():
    return load_model("dw4-eacf")


@pytest.fixture(scope="module")
def samples(model):
    return generate(model.flow, model.target, N, seed=4)


@pytest.mark.parametrize("draws", [1, pytest.param(20, marks=pytest.mark.slow)])
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


def test_thinning_averaging_taking_and_joining_in_any_order(model, samples):
    flow, exact = dataclasses.replace(model.flow, marginal_draws=2), targets.get("dw4").exact
    samples = samples.take(np.arange(2500))

    def average(part):
        return averaged(part, flow, model.target)

    def thin(part, seed=0):
        return thinned(part, np.where(part.u > np.median(samples.u), 1.0, 0.1), seed=seed)

    def halves(part):
        return part.take(slice(0, part.n // 2)), part.take(np.arange(part.n // 2, part.n))

    thinned_first = average(thin(samples))
    orders = {
        "thinned, averaged": thinned_first,
        "averaged, thinned": thin(average(samples)),
        "taken, thinned, joined, averaged": average(Samples.concatenate([thin(part, seed) for seed, part in enumerate(halves(samples))])),
        "thinned, taken, averaged, joined": Samples.concatenate([average(part) for part in halves(thin(samples))]),
    }
    for name, found in orders.items():
        # Log q that is averaged as it is changed by thinning would be off by 0.2 and 1.4.
        assert found.log_z().value == pytest.approx(exact.log_z, abs=0.1), name
        assert found.expectation(found.u).value == pytest.approx(exact.mean_energy, abs=0.5), name
        assert not found.weights_follow, name
    # What averaging changes, it changes by the same amount in log q and in the weight.
    before = thin(samples)
    np.testing.assert_allclose(thinned_first.log_weight - before.log_weight, before.log_q - thinned_first.log_q)
    with pytest.raises(DataError, match=r"copies that log q is averaged over \(3 and 1\).*cannot be joined"):
        Samples.concatenate([thinned_first, before])
    with pytest.raises(DataError, match="not their log q; use `thinned"):
        _ = thinning(np.ones(3), seed=0).log_q


def test_samples_of_another_flow_or_target_are_refused(model, samples):
    few = samples.take(np.arange(5))
    other = dataclasses.replace(model.flow, scale=1.01)
    with pytest.raises(DataError, match="differ in the weights of the flow"):
        averaged(few, other, model.target)
    with pytest.raises(DataError, match="the samples belong to .*N=4.*but the model to .*N=13"):
        averaged(few, model.flow, targets.get("lj13"))


def test_refusals(model, samples):
    few = samples.take(np.arange(5))
    with pytest.raises(DataError, match="averaged over 21 copies already"):
        averaged(averaged(few, model.flow, model.target), model.flow, model.target)
    with pytest.raises(DataError, match="only an augmented flow"):
        averaged(few, load_model("dw4").flow, model.target)


def test_to_a_file_with_interruptions(model, samples, tmp_path, monkeypatch):
    # Small pieces of few draws: there are as many pieces, and the same ends, as of large ones.
    flow = dataclasses.replace(model.flow, marginal_draws=3)
    monkeypatch.setattr(averaging, "_CHUNKS", 1)
    monkeypatch.setattr(type(flow), "chunk_size", 256)
    few = dataclasses.replace(samples.take(slice(0, 3 * flow.chunk_size + 7)), meta={**samples.meta, "seconds": 5.0})
    whole = average_to(few, flow, model.target, tmp_path / "whole.h5")
    assert whole.n == few.n
    assert whole.meta["draws"] == flow.marginal_draws + 1
    # The time of drawing is told once, however many pieces there are.
    assert whole.meta["seconds"] == 5.0
    np.testing.assert_array_equal(whole.positions, few.positions)
    # As unbiased as in one go: the same samples, other draws of the copies.
    assert abs(whole.log_z().value - averaged(few, flow, model.target).log_z().value) < 0.1

    class KilledError(Exception):
        """Stands for a kill."""

    def average(*arguments, first, **options):
        if first == 2 * flow.chunk_size:
            raise KilledError
        return averaged(*arguments, first=first, **options)

    path = tmp_path / "killed.h5"
    with monkeypatch.context() as patch:
        patch.setattr(averaging, "averaged", average)
        with pytest.raises(KilledError):
            average_to(few, flow, model.target, path)
    with pytest.raises(RunError, match="continue with resume"):
        average_to(few, flow, model.target, path)
    with pytest.raises(RunError, match="averaged"):
        average_to(samples.take(slice(8, 500)), flow, model.target, path, resume=True)
    resumed = average_to(few, flow, model.target, path, resume=True)
    np.testing.assert_array_equal(resumed.log_weight, whole.log_weight)
    np.testing.assert_array_equal(resumed.log_q, whole.log_q)


def test_by_workers_the_same_bits(model, samples, tmp_path, monkeypatch):
    flow = dataclasses.replace(model.flow, marginal_draws=3)
    monkeypatch.setattr(averaging, "_CHUNKS", 2)
    monkeypatch.setattr(type(flow), "chunk_size", 256)
    few = samples.take(slice(0, 3 * 256))
    # Samples without weight are not sent; what is drawn for the others depends on it.
    few = dataclasses.replace(few, u=np.where(np.isin(np.arange(few.n), (3, 400)), np.inf, few.u))
    local = average_to(few, flow, model.target, tmp_path / "local.h5")
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        remote = ratio_farm(dataclasses.replace(model, flow=flow), executor)
        found = average_to(few, flow, model.target, tmp_path / "found.h5", remote=remote)
        np.testing.assert_array_equal(found.log_q, local.log_q)
        np.testing.assert_array_equal(found.log_weight, local.log_weight)
        at_once = averaged(few, flow, model.target, ratios=remote)
        np.testing.assert_array_equal(at_once.log_q, averaged(few, flow, model.target).log_q)
        # A chunk that no worker can compute costs itself.
        compute = Densities.__call__

        def failing(self, piece):
            if piece.first == 256:
                raise MemoryError("no room")
            return compute(self, piece)

        monkeypatch.setattr(Densities, "__call__", failing)
        with pytest.warns(UserWarning, match=r"configurations 256 to 509 have no weight, .* in 3 tries \(MemoryError: no room\)"):
            broken = average_to(few, flow, model.target, tmp_path / "broken.h5", remote=remote)
    lost = np.isneginf(broken.log_weight) & np.isfinite(local.log_weight)
    assert lost.sum() == 254
    np.testing.assert_array_equal(broken.log_weight[~lost], local.log_weight[~lost])
