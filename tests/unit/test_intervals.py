"""Intervals hold the truth as often as they say: by simulation, for weights of every spread, equal densities and correlated chains."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from boltzflow.analysis import Estimate, correlation, free_energy, metrics, tails, weights
from boltzflow.analysis.distances import Distance
from boltzflow.cli import output
from boltzflow.report import page

_spec = importlib.util.spec_from_file_location("coverage_tool", Path(__file__).parents[2] / "tools" / "interval_coverage.py")
assert _spec is not None
assert _spec.loader is not None
tool = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402

sys.modules["coverage_tool"] = tool
_spec.loader.exec_module(tool)


@pytest.mark.parametrize("kind", tool.WEIGHTED)
def test_coverage_of_weighted_figures(kind):
    held = [
        tool.coverage(lambda seed, f=family, s=share: tool.weighted(kind, f, s, 1000, seed), 8).held
        for family, share in (("log-normal", 0.7), ("log-normal", 0.1), ("student-t", 0.37), ("student-t", 0.02), ("pareto", 0.1))
    ]
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.9), (0.2, 0.85)])
def test_coverage_of_distances(shift, least):
    assert tool.coverage(lambda seed: tool.variation(shift, 1000, seed), 15).held >= least
    assert tool.coverage(lambda seed: tool.torsions(shift, 1000, seed), 8).held >= least


@pytest.mark.parametrize(("rho", "number", "draws", "sweeps"), [(0.9, 1, 2000, False), (0.9, 100, 50, True), (0.98, 10, 500, True)])
def test_coverage_of_the_mean_of_chains(rho, number, draws, sweeps):
    assert tool.coverage(lambda seed: tool.chains(rho, number, draws, seed, sweeps=sweeps), 40).held >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, chosen in tool.settings().items() for name in chosen])
def test_coverage_of_every_interval(kind, name):
    assert tool.coverage(tool.settings()[kind][name], 500).held >= 0.9


def test_few_distinct_answers_are_one_sided_where_two_sided_ones_are_honest():
    """The easy settings must not hide behind one-sided claims."""
    for kind, share, n in (("reverse_ess", 0.7, 1000), ("log_z", 0.37, 1000), ("expectation", 0.37, 1000), ("difference", 0.37, 1000)):
        found = tool.coverage(lambda seed, k=kind, s=share, m=n: tool.weighted(k, "log-normal", s, m, seed), 15)
        assert found.one_sided + found.none <= 0.34, kind
        assert found.width < (0.3 if kind == "reverse_ess" else 1.0)


class TestOneSided:
    def test_of_heavy_weights_only_a_bound_is_claimed(self) -> None:
        log_w = np.random.default_rng(0).normal(0.0, 3.0, 1000)
        ess, z = weights.reverse_ess(log_w), weights.log_z(log_w)
        mean = weights.expectation(log_w, np.random.default_rng(1).normal(size=1000))
        assert (ess.kind, ess.low) == ("at most", 0.0)
        assert ess.value < ess.high < 1.0
        assert (z.kind, z.high) == ("at least", math.inf)
        assert z.value - math.log(40.0) - 1e-9 <= z.low < z.value
        assert (mean.kind, mean.low, mean.high) == ("none", -math.inf, math.inf)
        for estimate in (ess, z, mean):
            assert "Pareto k" in estimate.note
            assert Estimate.from_dict(estimate.as_dict()) == estimate

    def test_cutting_weights_never_lowers_the_effective_sample_size(self) -> None:
        """What the upper bound rests on."""
        w = np.exp(np.random.default_rng(0).normal(0.0, 2.0, 500))
        cut = [np.minimum(w, c) for c in np.sort(w)]
        shares = [part.mean() ** 2 / np.mean(part**2) for part in cut]
        assert np.all(np.diff(shares) <= 1e-12)

    def test_all_weight_on_one_sample_is_warned_of(self, capsys: pytest.CaptureFixture[str]) -> None:
        log_w = np.full(1000, -math.inf)
        log_w[7] = 0.0
        verdict = weights.verdict(log_w)
        assert verdict.trusted is False
        assert "about 1 of 1000 samples carry all the weight" in verdict.sentence
        assert weights.log_z(log_w).kind == "at least"
        output.remarks({"verdict": {"sentence": verdict.sentence}})
        assert "do not trust" in capsys.readouterr().err

    def test_the_limit_of_few_samples_is_lower(self) -> None:
        assert tails.limit(10_000) == 0.7
        assert tails.limit(300) == pytest.approx(1.0 - 1.0 / math.log10(300))
        assert tails.limit(300) < 0.6

    def test_equal_weights_are_trusted(self) -> None:
        assert weights.verdict(np.zeros(1000)).trusted
        assert weights.verdict(np.zeros(10)).trusted is None

    def test_a_region_without_samples_has_a_bound_where_samples_count_alike(self) -> None:
        inside = np.zeros(1000, bool)
        estimate = free_energy.difference(np.zeros(1000), inside, ~inside)
        # The rule of three, here with 97.5 %: at most 3.7 of 1000.
        assert estimate.kind == "at least"
        assert estimate.low == pytest.approx(math.log(1000 / 3.69), abs=0.4)
        heavy = free_energy.difference(np.random.default_rng(0).normal(0.0, 1.0, 1000), inside, ~inside)
        assert heavy.kind == "none"


class TestDistances:
    def test_the_same_density(self) -> None:
        rng = np.random.default_rng(0)
        found = metrics.total_variation_distance(rng.normal(size=2000), rng.normal(size=2000), np.linspace(-5, 5, 51))
        assert isinstance(found, Distance)
        assert found.low == 0.0
        assert found.value < 0.06 < found.high
        assert found.seen == pytest.approx(found.floor, rel=0.3)
        assert "equal densities give" in str(found)
        assert found.as_dict()["floor"] == found.floor

    def test_disjoint_sets_are_one_apart(self) -> None:
        found = metrics.total_variation_distance(np.full(500, 0.5), np.full(500, 1.5), [0.0, 1.0, 2.0])
        assert found.value == pytest.approx(1.0)
        assert found.high <= 1.0

    def test_correlated_samples_have_a_higher_floor(self) -> None:
        x = np.repeat(np.random.default_rng(0).normal(size=100), 20)
        y = np.random.default_rng(1).normal(size=2000)
        edges = np.linspace(-4, 4, 21)
        alike, blocks = (metrics.total_variation_distance(x, y, edges, blocks_a=blocks) for blocks in (None, 50))
        assert alike.low > 0.0
        assert blocks.low == 0.0
        assert blocks.floor > 1.5 * alike.floor


class TestWords:
    def test_formats(self) -> None:
        bound = Estimate(0.0223, 0.0, 0.0984, 1000, "at most", "why")
        assert str(bound) == "0.0223 at most 0.0984 (n = 1000; why)"
        assert page.numbers(bound, 100.0) == ("2.23", "at most 9.84")
        assert page.numbers(Estimate(1.0, 1.0, 1.0, 100), 100.0) == ("100.0", "")
        assert output.cells("ess_reverse", bound.as_dict()) == ("2.23 %", "at most 9.84 %", "1000")
        assert output.cells("nll", Estimate(1.0, 0.9, 1.1, 100, n_effective=12.3).as_dict()) == (
            "1.00",
            "0.90 to 1.10",
            "100 (12 effective)",
        )
        assert output.cells("log_z", {"value": 1.0, "low": 0.9, "high": 1.1, "n": 5})[1] == "0.90 to 1.10"

    def test_old_cards_are_read(self) -> None:
        assert Estimate.from_dict({"value": 1.0, "low": 0.5, "high": 2.0, "n": 5}) == Estimate(1.0, 0.5, 2.0, 5)


class TestCorrelation:
    def test_spread_takes_each_frame_once_and_from_everywhere(self) -> None:
        for n, count in ((10, 7), (1000, 13), (7, 7), (5, 9), (100, 99)):
            chosen = correlation.spread(n, count, seed=n)
            assert len(chosen) == min(n, count)
            assert np.all(np.diff(chosen) > 0)
            assert chosen[-1] < n
        # A regular stride of 100 over 100 chains that lie sweep by sweep would see one of them.
        assert len(set(correlation.spread(20_000, 200) % 100)) > 60

    def test_sweeps_are_found_and_chains_are_left(self) -> None:
        rng = np.random.default_rng(0)
        values = np.cumsum(rng.normal(size=(30, 200)), axis=1)
        assert correlation.period(values.T.ravel()) == 30
        assert correlation.period(values.ravel()) == 1
        assert correlation.period(rng.normal(size=6000)) == 1
        np.testing.assert_array_equal(values.T.ravel()[correlation.chain_order(6000, 30)], values.ravel())

    def test_independent_values_count_as_such(self) -> None:
        found = [correlation.of_series(np.random.default_rng(seed).normal(size=1000)).blocks for seed in range(40)]
        assert sum(blocks is None for blocks in found) >= 35
        assert correlation.of_series(np.zeros(100)).blocks is None
        assert correlation.of_series(np.random.default_rng(0).normal(size=1000), at_most=100.0).n_effective == 100.0
