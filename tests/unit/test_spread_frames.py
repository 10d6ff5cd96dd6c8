"""Frames are never taken from one end, and neighbours of a chain stay together."""

import numpy as np
import pytest

from boltzflow.analysis import correlation, metrics
from boltzflow.datasets import Dataset
from boltzflow.datasets.virial import VirialCheck
from boltzflow.evaluation.figures import evaluate
from boltzflow.models.storage import load_model
from boltzflow.report import contents
from boltzflow.sampling.export import export


def labelled(n: int, **provenance: int) -> Dataset:
    """Frames whose first coordinate is their number."""
    positions = np.zeros((n, 4, 2), np.float32)
    positions[:, 0, 0] = np.arange(n)
    return Dataset(positions, "t", "reduced", provenance)


def numbers(data: Dataset) -> np.ndarray:
    return data.positions[:, 0, 0].astype(int)


def test_spread_is_over_all_chains():
    data = labelled(1000, chains=10)
    taken = numbers(data.spread(50, seed=1))
    np.testing.assert_array_equal(np.bincount(taken // 100), 5)
    np.testing.assert_array_equal(taken, numbers(data.spread(50, seed=1)))
    assert not np.array_equal(taken, numbers(data.spread(50, seed=2)))


def test_whole_chains_are_held_out():
    data = labelled(1000, chains=40)
    train, validation = data.split(validation=100, seed=0)
    assert (train.n, validation.n) == (900, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate([numbers(train), numbers(validation)])), np.arange(1000))
    assert len(set(numbers(validation) // 25)) == 4
    assert not set(numbers(train) // 25) & set(numbers(validation) // 25)


def test_without_many_chains_runs_are_held_out_from_everywhere():
    train, validation = labelled(1000, chains=4).split(validation=200, seed=0)
    held = numbers(validation)
    assert train.n == 800
    assert np.sum(np.diff(held) > 1) <= 10
    np.testing.assert_array_equal(np.bincount(held // 250), 50)


def test_frames_of_a_sweep_are_told_to_their_chains():
    rng = np.random.default_rng(0)
    walks = 3.0 + np.cumsum(rng.normal(size=(20, 100)), axis=1)
    positions = walks.T.ravel()[:, None, None] * np.array([[-1.0], [0.0], [1.0]])
    data = Dataset(positions.astype(np.float32), "t", "reduced")
    order = data.in_order_of_chains()
    np.testing.assert_allclose(data.positions[order, 2, 0], walks.ravel(), rtol=1e-6)


def test_frames_count_at_most_by_the_effective_sample_size_of_their_sampler():
    data = labelled(1000, chains=40, ess_energy=300, ess_radius_of_gyration=200)
    assert data.n_effective == 200
    assert data.split(validation=100, seed=0)[1].n_effective == pytest.approx(20.0)
    assert data.spread(500).n_effective == 200
    assert labelled(10).n_effective is None


class Seen(Exception):
    """Carries the frames that would have been evaluated."""


def test_evaluation_report_and_export_see_all_frames(tmp_path, monkeypatch):
    model = load_model("dw4")
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    # Four chains that have each stayed at their own size.
    size = np.repeat([1.5, 1.6, 1.9, 2.4], 64)
    noise = 0.02 * np.random.default_rng(0).normal(size=(256, 4, 2))
    x = size[:, None, None] * square + noise - noise.mean(axis=1, keepdims=True)
    data = Dataset(x.astype(np.float32), model.target.fingerprint, model.target.units)

    def sizes_in(positions) -> np.ndarray:
        found = -np.asarray(positions)[:, 0].mean(axis=1)
        return np.argmin(np.abs(found[:, None] - np.array([1.5, 1.6, 1.9, 2.4])), axis=1)

    def caught(_, positions, **__):
        raise Seen(positions)

    for name, instead in (
        ("figures._seconds_of_chunk", lambda *_: 0.0),
        ("figures.generate", lambda *_, **__: None),
        ("frames.log_importance_ratios", caught),
    ):
        monkeypatch.setattr(f"boltzflow.evaluation.{name}", instead)
    with pytest.raises(Seen) as seen:
        evaluate(model, 64, seed=0, frames=data)
    np.testing.assert_array_equal(np.bincount(sizes_in(seen.value.args[0])), 16)

    data.save(tmp_path / "data.h5")
    (tmp_path / "config.yaml").write_text("target: dw4\n")
    np.testing.assert_array_equal(np.bincount(sizes_in(contents.read(tmp_path).shown_frames(16))), 4)

    assert export(x, tmp_path / "some.xyz", n=8) == 8
    written = [line.split()[1:3] for line in (tmp_path / "some.xyz").read_text().splitlines()[2::6]]
    np.testing.assert_array_equal(np.bincount(sizes_in(np.array(written, float)[:, None, :])), 2)


def test_the_mean_of_correlated_frames_says_what_it_is_worth():
    values = np.repeat(np.random.default_rng(0).normal(size=50), 40)
    alone = metrics.mean(values)
    found = metrics.mean(values, correlation=correlation.of_series(values))
    assert found.n_effective is not None
    assert found.n_effective < 150
    assert found.high - found.low > 3.0 * (alone.high - alone.low)


def test_the_virial_check_says_what_it_cannot_see():
    few = VirialCheck(value=41.0, standard_error=10.75, expected=63.0, tolerance=43.0, n=10, ok=True)
    assert not few.judged
    assert "undecided: 10 frames are too few to judge by" in few.sentence()
    # Frames at 300 K for a target at 273 K: 63 · 300 / 273.
    warm = VirialCheck(value=69.2, standard_error=0.5, expected=63.0, tolerance=6.3, n=20_000, ok=True)
    assert warm.judged
    assert "a temperature that is off by less than 10 % would not show" in warm.sentence()
    assert "off by +9.8 %, more than chance" in warm.sentence()
    assert "chance" not in VirialCheck(64.0, 0.5, 63.0, 6.3, 20_000, True).sentence()
